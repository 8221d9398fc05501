"""What the statistics promise, by simulation: intervals hold the truth, no difference makes no winner."""

import math

import numpy as np
import pytest

from video_diffusion.comparison.statistics import bootstrap_interval, holm, sign_flip_p


def simulated(rng, num_prompts, num_seeds, between, within, effect=0.0):
    prompts = rng.normal(effect, between, (num_prompts, 1))
    return list(prompts + rng.normal(0, within, (num_prompts, num_seeds)))


def coverage(repetitions, num_prompts, num_seeds, between, within, draws):
    rng = np.random.default_rng([num_prompts, num_seeds])
    held = 0
    for _ in range(repetitions):
        found = bootstrap_interval(
            simulated(rng, num_prompts, num_seeds, between, within, 0.3), rng, draws=draws
        )
        held += found.low <= 0.3 <= found.high
    return held / repetitions


def false_winners(repetitions, num_settings, num_prompts, num_seeds):
    """Share of repetitions in which one of the settings, none of which does anything, reaches Holm's 5 %."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(repetitions):
        baseline = rng.normal(0, 1, (num_prompts, num_seeds))
        p_values = []
        for _ in range(num_settings):
            scores = rng.normal(0, 1, (num_prompts, num_seeds))
            p_values.append(sign_flip_p((scores - baseline).mean(axis=1), rng))
        hits += min(holm(p_values)) <= 0.05
    return hits / repetitions


def test_intervals_hold_the_truth_in_a_short_simulation():
    found = coverage(300, 8, 2, 1.0, 0.7, draws=600)
    assert abs(found - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 300)


def test_ten_settings_that_do_nothing_make_no_winner_in_a_short_simulation():
    assert false_winners(150, 10, 10, 2) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_prompts", "num_seeds", "between", "within"),
    [(6, 1, 1.0, 0.0), (8, 2, 1.0, 0.7), (8, 4, 0.2, 1.0), (8, 2, 0.0, 1.0), (20, 3, 1.0, 1.0)],
)
def test_intervals_cover_at_their_stated_rate(num_prompts, num_seeds, between, within):
    found = coverage(4000, num_prompts, num_seeds, between, within, draws=2000)
    error = math.sqrt(0.95 * 0.05 / 4000)
    assert found > 0.95 - 0.005 - 3 * error
    assert found < 0.975


@pytest.mark.slow
def test_the_false_winner_rate_with_ten_settings_is_at_most_alpha():
    assert false_winners(2000, 10, 12, 2) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
