"""Paired statistics against SciPy, closed forms and small simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from video_diffusion.comparison import statistics as own


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 20, 61])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.975, 0.999])
def test_t_quantile_equals_scipys(degrees, share):
    assert own.t_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
def test_exact_sign_flip_equals_scipys(n):
    means = rng(n).normal(0.4, 1, n)
    expected = (
        stats.permutation_test((means,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        if n > 1
        else 1.0
    )
    assert own.sign_flip_p(means, rng()) == pytest.approx(expected)


def test_monte_carlo_above_sixteen_prompts_agrees_with_the_normal_limit():
    means = rng(3).normal(0.35, 1, 40)
    expected = 2 * stats.norm.sf(abs(means.sum()) / math.sqrt(np.sum(means**2)))
    assert own.sign_flip_p(means, rng()) == pytest.approx(expected, abs=0.01)
    assert own.sign_flip_p(np.ones(40), rng()) == 1 / (own.MONTE_CARLO_DRAWS + 1)


def test_five_prompts_cannot_reach_five_percent():
    assert own.sign_flip_p(np.arange(1.0, 6.0), rng()) == 0.0625 == own.minimum_p(5)
    assert own.prompts_to_reach(0.05) == 6
    assert own.prompts_to_reach(0.05, num_tests=10) == 9
    for tests in (1, 3, 10):
        n = own.prompts_to_reach(0.05, tests)
        assert own.minimum_p(n) * tests <= 0.05 < own.minimum_p(n - 1) * tests


def test_all_differences_zero_give_p_one():
    assert own.sign_flip_p(np.zeros(7), rng()) == 1.0


def test_holm_and_benjamini_hochberg_closed_forms():
    assert own.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert own.benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    p_values = rng(1).uniform(0, 1, 30).tolist()
    assert own.benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values))
    assert own.holm([]) == own.benjamini_hochberg([]) == []


def test_the_interval_is_students_where_prompts_are_many_and_normal():
    means = rng(2).normal(1, 2, 60)
    found = own.bootstrap_interval([means[i : i + 1] for i in range(60)], rng(), draws=20_000)
    low, high = stats.t.interval(0.95, 59, means.mean(), stats.sem(means))
    assert found.estimate == pytest.approx(means.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_more_seeds_of_the_same_prompts_do_not_narrow_the_interval_as_more_prompts_do():
    prompts = rng(4).normal(0, 1, 10)
    few = own.bootstrap_interval([np.repeat(p, 2) for p in prompts], rng())
    many = own.bootstrap_interval([np.repeat(p, 50) for p in prompts], rng())
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.05)


def test_one_prompt_has_no_interval():
    found = own.bootstrap_interval([np.array([1.0, 3.0])], rng())
    assert (found.estimate, found.low, found.high) == (2.0, -math.inf, math.inf)


def test_equal_differences_give_a_point():
    found = own.bootstrap_interval([np.array([0.5, 0.5])] * 6, rng())
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("rows", [[], [np.array([])], [np.array([1.0]), np.array([np.nan])]])
def test_pairs_without_numbers_are_refused(rows):
    with pytest.raises(ValueError, match="differences"):
        own.prompt_means(rows)


def test_prompts_needed_keeps_its_promise():
    """Student's power at the promised number is the promised power, by SciPy's noncentral t."""
    means = rng(5).normal(0, 1.7, 12)
    spread = means.std(ddof=1)
    for difference in (0.8, 1.5, -1.2):
        n = own.prompts_needed(means, difference)
        shift = abs(difference) / spread * math.sqrt(n)
        power = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift)
        assert 0.8 <= power < 0.9
    assert own.prompts_needed(means, 0.0) is None
    assert own.prompts_needed(means[:1], 1.0) is None
    assert own.prompts_needed(means, 1e6) == 6


def test_the_baseline_against_itself_pairs_neighbouring_seeds():
    scores = [np.array([1.0, 4.0, 10.0, 11.0, 99.0]), np.array([2.0]), np.array([5.0, 3.0])]
    found = own.a_a_differences(scores)
    assert [row.tolist() for row in found] == [[3.0, 1.0], [-2.0]]
