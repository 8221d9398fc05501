"""Paired statistics whose unit is the prompt: seeds are nested in it, and never counted as new evidence.

Everywhere, `differences` holds one array per prompt: the setting minus the baseline, one number per seed.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

MAX_EXACT_PROMPTS = 16
"""Up to here every one of the 2ⁿ sign patterns is counted; above, `MONTE_CARLO_DRAWS` random ones."""
MONTE_CARLO_DRAWS = 20_000
BOOTSTRAP_DRAWS = 5_000

Numbers = Float[np.ndarray, " _"]


@dataclass(frozen=True)
class Interval:
    """A mean difference and the interval around it.

    Attributes:
        estimate: mean over prompts of the mean over seeds.
        low, high: ends of the interval; minus and plus infinity with fewer than two prompts.
        level: share of such intervals that hold the true difference, for example 0.95.
    """

    estimate: float
    low: float
    high: float
    level: float


def prompt_means(differences: Sequence[Numbers]) -> Numbers:
    """The mean over seeds of each prompt: the numbers on which everything else rests.

    Raises:
        ValueError: no prompt, a prompt without a seed, or a number that is not finite.
    """
    if not differences:
        raise ValueError("differences hold no prompt; give at least one pair")
    for place, row in enumerate(differences):
        if len(row) == 0 or not np.isfinite(row).all():
            raise ValueError(
                f"differences of prompt {place} must be one or more finite numbers; drop that pair"
            )
    return np.array([float(np.mean(row)) for row in differences])


def bootstrap_interval(
    differences: Sequence[Numbers],
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = BOOTSTRAP_DRAWS,
) -> Interval:
    """A two-level bootstrap interval of the mean difference: prompts are drawn, then seeds within each.

    Drawing both levels as they are counts the spread between seeds twice, and few prompts make percentile
    intervals too short. So prompts are shrunk towards the mean (and seeds too, where prompts differ less than
    their seeds explain) until the bootstrap's variance is the unbiased one (Davison and Hinkley 1997, section
    3.8), and the percentiles are stretched by t over normal (Hesterberg 2015, "expanded percentile
    interval"). With equal seeds per prompt the stated level is then kept within Monte-Carlo error, as
    `tests/comparison/test_coverage.py` shows.

    Args:
        differences: see the module; prompts may have different numbers of seeds.
        rng: source of the draws.
        level: between 0 and 1.
        draws: bootstrap repetitions.
    """
    means = prompt_means(differences)
    n = len(means)
    centre = float(means.mean())
    if n < 2:
        return Interval(centre, -math.inf, math.inf, level)
    spread = float(means.var(ddof=1))
    within = [float(row.var(ddof=1)) / len(row) if len(row) > 1 else 0.0 for row in differences]
    share = float(np.mean(within)) / spread if spread > 0 else 1.0  # of the variance that seeds explain
    kept = math.sqrt(max(0.0, 1.0 - share))
    scale = math.sqrt(1.0 / share) if share > 1.0 else 1.0
    shrunk = centre + kept * math.sqrt(n / (n - 1)) * (means - centre)
    residuals = [_seed_residuals(row) * scale for row in differences]
    # every prompt's second level, drawn once for each place in which the prompt may turn up
    chosen = rng.integers(0, n, size=(draws, n))
    totals = shrunk[chosen].sum(axis=1)
    for prompt, row in enumerate(residuals):
        if len(row) < 2:
            continue
        places = chosen == prompt
        count = int(places.sum())
        drawn = row[rng.integers(0, len(row), size=(count, len(row)))].mean(axis=1)
        seeds = np.zeros(chosen.shape)
        seeds[places] = drawn
        totals += seeds.sum(axis=1)
    deviations = totals / n - centre
    tail = (1 - level) / 2
    stretch = t_quantile(1 - tail, n - 1) / NormalDist().inv_cdf(1 - tail)
    low, high = np.quantile(deviations, [tail, 1 - tail]) * stretch
    return Interval(centre, centre + float(low), centre + float(high), level)


def sign_flip_p(means: Numbers, rng: np.random.Generator) -> float:
    """Two-sided p of the sign-flip permutation test on the prompts' mean differences.

    If a setting changes nothing, every difference could as well have had the other sign. Exact up to
    `MAX_EXACT_PROMPTS` prompts; above, `MONTE_CARLO_DRAWS` random patterns with the observed one counted in,
    so that p is never 0.
    """
    n = len(means)
    if n == 0:
        raise ValueError("means holds no prompt; give at least one pair")
    observed = abs(float(means.sum()))
    limit = observed * (1 - 1e-12) - 1e-300
    if n <= MAX_EXACT_PROMPTS:
        sums = np.abs(means[0] + _sign_patterns(n - 1) @ means[1:])  # the other half is its mirror image
        return float(np.mean(sums >= limit))
    hits = 1
    for _ in range(0, MONTE_CARLO_DRAWS, 1000):
        signs = rng.integers(0, 2, size=(1000, n)) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ means) >= limit))
    return hits / (MONTE_CARLO_DRAWS + 1)


@cache
def _sign_patterns(length: int) -> Float[np.ndarray, "patterns length"]:
    """All 2^length rows of +1 and -1; kept, since every metric of a comparison asks for the same ones."""
    return np.array(list(itertools.product((1.0, -1.0), repeat=length))).reshape(2**length, length)


def minimum_p(num_prompts: int) -> float:
    """The smallest two-sided p that so many prompts can reach, whatever they show: 2/2ⁿ."""
    exact = 2.0 ** (1 - num_prompts) if num_prompts > 0 else 1.0
    return exact if num_prompts <= MAX_EXACT_PROMPTS else max(exact, 1 / (MONTE_CARLO_DRAWS + 1))


def prompts_to_reach(alpha: float, num_tests: int = 1) -> int:
    """How many prompts the sign-flip test needs at least, to reach alpha after Holm over `num_tests`."""
    return 1 + math.ceil(math.log2(num_tests / alpha) - 1e-12)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p: under alpha they keep the chance of *any* false finding at alpha."""
    count, adjusted, running = len(p_values), [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda at: p_values[at])):
        running = max(running, (count - rank) * p_values[place])
        adjusted[place] = min(1.0, running)
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p: under alpha they keep the *share* of false findings at alpha."""
    count, adjusted, running = len(p_values), [1.0] * len(p_values), 1.0
    for rank, place in enumerate(sorted(range(count), key=lambda at: -p_values[at])):
        running = min(running, p_values[place] * count / (count - rank))
        adjusted[place] = running
    return adjusted


def prompts_needed(means: Numbers, difference: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """About how many prompts show a true difference of this size, given the spread between prompts.

    The normal formula ((z₁₋α/₂ + z_power)·s/δ)² with Guenther's correction z²/2 for an unknown spread; never
    fewer than the sign-flip test needs. None with fewer than two prompts, or a difference of 0.
    """
    if len(means) < 2 or difference == 0 or not math.isfinite(difference):
        return None
    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    spread = float(means.std(ddof=1))
    needed = ((z_alpha + z_power) * spread / abs(difference)) ** 2 + z_alpha**2 / 2
    return max(math.ceil(needed), prompts_to_reach(alpha))


def a_a_differences(scores: Sequence[Numbers]) -> list[Numbers]:
    """The baseline against itself: per prompt, every other seed minus the seed before it.

    What comes out differs by seeds alone, so its interval is the ruler that real differences are held to.
    Prompts with one seed give nothing.
    """
    pairs = [row[1 : 2 * (len(row) // 2) : 2] - row[0 : 2 * (len(row) // 2) : 2] for row in scores]
    return [row for row in pairs if len(row)]


def t_quantile(share: float, degrees: int) -> float:
    """Student's t for 1 or more degrees of freedom: the value that `share` (0.5 to 1) of it lies below."""
    low, high = 0.0, 1.0
    while _t_cdf(high, degrees) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, degrees: int) -> float:
    """The finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4, for t of 0 or more."""
    angle = math.atan2(t, math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cos2 * (k + 1) / (k + 2)
    area = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + area / 2


def _seed_residuals(row: Numbers) -> Numbers:
    """Deviations of a prompt's seeds from their mean, scaled so that drawing them is unbiased in variance."""
    count = len(row)
    return (row - row.mean()) * math.sqrt(count / (count - 1)) if count > 1 else np.zeros(0)
