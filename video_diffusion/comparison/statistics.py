"""Paired statistics: pairs of clips, intervals, tests, corrections, and the words that they allow."""

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from video_diffusion.comparison.summary import (
    Arm,
    ArmMean,
    Change,
    ClipResult,
    Difference,
    MetricSummary,
    PromptDifference,
    Role,
    Span,
)
from video_diffusion.metrics.report import Direction

MAX_EXACT_PROMPTS = 16
"""Up to here every one of the 2ⁿ sign patterns is counted; above, `MONTE_CARLO_DRAWS` random ones."""
MONTE_CARLO_DRAWS = 20_000
BOOTSTRAP_DRAWS = 5_000
MOST_NUMBERS_DRAWN = 1_000_000
"""By one interval: of more than 200 prompts, whose mean is nearly normal, fewer draws say as much."""

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
    """The mean over seeds of each prompt: the numbers on which everything else rests."""
    if not differences:
        raise ValueError("differences hold no prompt; give at least one pair")
    lengths = np.array([len(row) for row in differences])
    every = np.concatenate(differences)
    if lengths.min() == 0 or not np.isfinite(every).all():
        place = next(at for at, row in enumerate(differences) if len(row) == 0 or not np.isfinite(row).all())
        raise ValueError(f"differences of prompt {place} must be one or more finite numbers; drop that pair")
    return np.add.reduceat(every, np.cumsum(lengths) - lengths) / lengths


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
    """
    means = prompt_means(differences)
    n = len(means)
    centre = float(means.mean())
    if n < 2:
        return Interval(centre, -math.inf, math.inf, level)
    spread = float(means.var(ddof=1))
    lengths = np.array([len(row) for row in differences])
    deviation = np.concatenate(differences) - means.repeat(lengths)
    squares = np.add.reduceat(deviation**2, np.cumsum(lengths) - lengths)
    within = np.where(lengths > 1, squares / np.maximum(lengths - 1, 1) / lengths, 0.0)
    share = float(within.mean()) / spread if spread > 0 else 1.0  # of the variance that seeds explain
    kept = math.sqrt(max(0.0, 1.0 - share))
    scale = math.sqrt(1.0 / share) if share > 1.0 else 1.0
    shrunk = centre + kept * math.sqrt(n / (n - 1)) * (means - centre)
    draws = max(1000, min(draws, MOST_NUMBERS_DRAWN // n))
    chosen = rng.integers(0, n, size=(draws, n))
    totals = shrunk[chosen].sum(axis=1)
    for length in sorted(set(lengths.tolist()) - {1}):  # the second level: seeds within prompts
        own = lengths == length
        residuals = np.zeros((n, length))
        residuals[own] = deviation[own.repeat(lengths)].reshape(-1, length)
        residuals *= scale * math.sqrt(length / (length - 1))  # so that drawing them is unbiased in variance
        drawn = chosen if own.all() else np.where(own[chosen], chosen, np.argmin(own))  # a row of zeros
        for _ in range(length):
            totals += residuals[drawn, rng.integers(0, length, size=chosen.shape)].sum(axis=1) / length
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
        flipped = rng.integers(0, 2, size=(1000, n), dtype=np.int8) @ means
        hits += int(np.sum(np.abs(means.sum() - 2 * flipped) >= limit))
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


@cache
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


# Clips side by side: the same prompt and seed under two settings, and what was lost on the way.


Place: TypeAlias = tuple[str, int]
Clips: TypeAlias = Mapping[Place, ClipResult]
"""The clips of one arm by (prompt, seed)."""


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Pairs:
    """One metric of one arm against the baseline.

    Attributes:
        prompts: those with one pair or more.
        baseline, arm: for each of them, one number per seed.
        num_lost: places where one side has no number.
        num_doubtful: pairs in which a side's number has the status "unmeasurable".
    """

    prompts: tuple[str, ...]
    baseline: tuple[Numbers, ...]
    arm: tuple[Numbers, ...]
    num_lost: int
    num_doubtful: int

    @property
    def differences(self) -> tuple[Numbers, ...]:
        """For each prompt, arm minus baseline, one number per seed."""
        return tuple(after - before for before, after in zip(self.baseline, self.arm, strict=True))


def value_of(clip: ClipResult | None, metric: str) -> float | None:
    """The number of a clip in a metric; None when it has none, whatever the reason.

    A number stands whatever its status: flicker that is mostly unexplained change is still flicker, and a
    static clip's motion is still its motion. Verdicts say how many of their pairs are "unmeasurable".
    """
    measured = clip.measures.get(metric) if clip is not None else None
    return measured.value if measured is not None else None


def pair_up(baseline: Clips, arm: Clips, metric: str, places: Sequence[Place]) -> Pairs:
    """The numbers of both sides at every place, grouped by prompt in the order of `places`."""
    rows: dict[str, list[tuple[float, float]]] = {}
    lost = doubtful = 0
    for place in places:
        before, after = (value_of(side.get(place), metric) for side in (baseline, arm))
        if before is None or after is None:
            lost += 1
            continue
        rows.setdefault(place[0], []).append((before, after))
        doubtful += any(side[place].measures[metric].status == "unmeasurable" for side in (baseline, arm))
    sides = [tuple(np.array([pair[side] for pair in row]) for row in rows.values()) for side in (0, 1)]
    return Pairs(tuple(rows), sides[0], sides[1], lost, doubtful)


def describe_arm(
    label: str,
    baseline: str,
    clips: Sequence[ClipResult],
    settings: Mapping[str, Any],
    changes: tuple[Change, ...] = (),
    place: Mapping[str, str] | None = None,
) -> Arm:
    """An arm, its clips counted; paired where they start from the noise of the baseline's.

    Whether they do is None where no record tells.
    """
    own = [clip for clip in clips if clip.arm == label]
    noise = {clip.key: clip.noise_sha256 for clip in clips if clip.arm == baseline}
    known = [
        clip.noise_sha256 == noise[clip.key] for clip in own if clip.noise_sha256 and noise.get(clip.key)
    ]
    return Arm(
        label=label,
        is_baseline=label == baseline,
        settings=settings,
        changes=changes,
        place=place or {},
        paired=all(known) if known else None,
        num_clips=sum(not clip.error for clip in own),
        num_failed=sum(bool(clip.error) for clip in own),
    )


def scores(clips: Clips, metric: str, places: Sequence[Place]) -> list[Numbers]:
    """The numbers of one arm, one array per prompt that has any."""
    rows: dict[str, list[float]] = {}
    for place in places:
        value = value_of(clips.get(place), metric)
        if value is not None:
            rows.setdefault(place[0], []).append(value)
    return [np.array(row) for row in rows.values()]


# Every metric over all arms: means, paired differences, intervals, p, and the words that they allow.


HEADLINE = "flicker"
# guard → +1 if it must not fall, -1 if it must not rise; one that nothing measured guards nothing
GUARDS: Mapping[str, int] = {
    "motion": 1, "morph": -1, "steady_sharpness": 1, "sharpness": 1, "prompt_alignment": 1, "cuts": -1,
}  # fmt: skip
STEADY = {"sharpness": "steady_sharpness"}
"""Guards that step back where a better measure of the same is there, which takes their margin: between
methods, sharpness of one frame may be the flickering texture itself."""
RELATIVE_MARGINS = frozenset({"flicker", "motion", "sharpness", "steady_sharpness", "prompt_alignment"})
DRAWS: Mapping[Role, int] = {"headline": 5000, "guard": 5000, "other": 2000}


@dataclass(frozen=True)
class Kind:
    """What a metric is called and which way is better, as in `metrics.Metric`; whether it may be a guard."""

    name: str
    unit: str
    direction: Direction
    group: str
    may_guard: bool = True

    @property
    def role(self) -> Role:
        """What the metric decides."""
        if self.name == HEADLINE:
            return "headline"
        return "guard" if self.name in GUARDS and self.may_guard else "other"


@dataclass(frozen=True)
class Material:
    """The clips of all arms, and the rules by which they are compared.

    Attributes:
        arms: label → clips, the baseline first.
        places: every (prompt, seed), prompt by prompt.
        margins: guard or headline → margin, see `RELATIVE_MARGINS` and `declaration.DEFAULT_MARGINS`.
        alpha: level of the tests; intervals hold at 1 - alpha.
    """

    arms: Mapping[str, Clips]
    places: Sequence[Place]
    margins: Mapping[str, float]
    alpha: float = 0.05

    @property
    def baseline(self) -> str:
        """Label of the first arm."""
        return next(iter(self.arms))


def compare_metrics(material: Material, kinds: Sequence[Kind]) -> tuple[MetricSummary, ...]:
    """Every metric that any clip has a number for: the headline first, then guards, then the rest.

    p is adjusted by Holm over the arms in the headline, and by Benjamini and Hochberg over all arms and all
    other metrics together.
    """
    measured = {
        name
        for clips in material.arms.values()
        for clip in clips.values()
        for name in STEADY.values()
        if value_of(clip, name) is not None
    }
    kinds = [replace(kind, may_guard=STEADY.get(kind.name) not in measured) for kind in kinds]
    order = {"headline": -1, **{name: at for at, name in enumerate(GUARDS)}}
    kinds = sorted(
        kinds, key=lambda kind: order.get(kind.name if kind.role == "guard" else kind.role, len(order))
    )
    found = [_compare(material, kind) for kind in kinds]
    known = [metric for metric in found if metric is not None]
    headline = [metric for metric in known if metric.role == "headline"]
    rest = [metric for metric in known if metric.role != "headline"]
    return (*_adjust(headline, material, holm), *_adjust(rest, material, benjamini_hochberg))


def p_reachable(num_prompts: int, num_tests: int = 1) -> float:
    """The smallest Holm-adjusted p that so many prompts can reach with so many arms."""
    return min(1.0, minimum_p(num_prompts) * max(1, num_tests))


def _compare(material: Material, kind: Kind) -> MetricSummary | None:
    means = tuple(_mean(material, kind, label) for label in material.arms)
    if not any(mean.num_clips for mean in means):
        return None
    base = means[0].span.estimate if means[0].span is not None else None
    margin = _margin(material, kind, base)
    others = [label for label in material.arms if label != material.baseline]
    own = scores(material.arms[material.baseline], kind.name, material.places)
    floor = a_a_differences(own)
    return MetricSummary(
        name=kind.name,
        unit=kind.unit,
        direction=kind.direction,
        group=kind.group,
        role=kind.role,
        margin=margin,
        means=means,
        differences=tuple(_difference(material, kind, label, margin) for label in others),
        noise_floor=_span(floor, material, kind, "A/A") if floor else None,
    )


def _mean(material: Material, kind: Kind, label: str) -> ArmMean:
    rows = scores(material.arms[label], kind.name, material.places)
    span = _span(rows, material, kind, f"mean of {label}") if rows else None
    return ArmMean(label, span, sum(len(row) for row in rows))


def _margin(material: Material, kind: Kind, base: float | None) -> float | None:
    declared = {**{better: material.margins.get(name) for name, better in STEADY.items()}, **material.margins}
    margin = declared.get(kind.name)
    if margin is None or kind.role == "other":
        return None
    if kind.name in RELATIVE_MARGINS:
        return None if base is None else margin * abs(base)
    return margin


def _difference(material: Material, kind: Kind, label: str, margin: float | None) -> Difference:
    pairs = pair_up(material.arms[material.baseline], material.arms[label], kind.name, material.places)
    if not pairs.prompts:
        return Difference(
            arm=label, span=None, median=None, relative=None, share_better=None, p=None, adjusted_p=None,
            words="nothing to compare", num_pairs=0, num_lost=pairs.num_lost, prompts=(), prompts_needed=None,
        )  # fmt: skip
    differences = pairs.differences
    means = prompt_means(differences)
    before, after = (float(prompt_means(side).mean()) for side in (pairs.baseline, pairs.arm))
    span = _span(differences, material, kind, label)
    num_tests = max(1, len(material.arms) - 1) if kind.role == "headline" else 1
    sought = margin if margin else span.estimate
    return Difference(
        arm=label,
        span=span,
        median=float(np.median(means)),
        relative=span.estimate / abs(before) if before else None,
        share_better=float(
            np.mean(
                [each < 0 if kind.direction == "lower" else each > 0 for row in differences for each in row]
            )
        ),
        p=sign_flip_p(means, _rng(kind.name, label, "p")),
        adjusted_p=None,
        words="",
        num_pairs=sum(len(row) for row in differences),
        num_lost=pairs.num_lost,
        prompts=tuple(
            PromptDifference(prompt, float(mean), len(row))
            for prompt, mean, row in zip(pairs.prompts, means, differences, strict=True)
        ),
        prompts_needed=prompts_needed(means, sought, material.alpha / num_tests),
        baseline_mean=before,
        mean=after,
        num_doubtful=pairs.num_doubtful,
    )


def _adjust(
    metrics: Sequence[MetricSummary],
    material: Material,
    method: Callable[[Sequence[float]], list[float]],
) -> list[MetricSummary]:
    """The metrics with p adjusted over all their differences together, and the words that follow."""
    tested = [each.p for metric in metrics for each in metric.differences if each.p is not None]
    adjusted = iter(method(tested))
    settled = []
    for metric in metrics:
        differences = []
        for each in metric.differences:
            own = each if each.p is None else replace(each, adjusted_p=next(adjusted))
            differences.append(replace(own, words=_words(own, material.alpha)))
        settled.append(replace(metric, differences=tuple(differences)))
    return settled


def _words(difference: Difference, alpha: float) -> str:
    span, p = difference.span, difference.adjusted_p
    if span is None or p is None:
        return difference.words
    if excludes_zero(span):
        side = "higher" if span.estimate > 0 else "lower"
        return side if p <= alpha else f"maybe {side}"
    return "too few to tell" if p_reachable(len(difference.prompts)) > alpha else "no difference seen"


def excludes_zero(span: Span) -> bool:
    """Whether the interval lies on one side of 0."""
    return span.low is not None and span.high is not None and (span.low > 0 or span.high < 0)


def _span(rows: Sequence[Numbers], material: Material, kind: Kind, what: str) -> Span:
    found = bootstrap_interval(rows, _rng(kind.name, what, "interval"), 1 - material.alpha, DRAWS[kind.role])
    ends = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return Span(found.estimate, *ends)


def _rng(*names: str) -> np.random.Generator:
    """A generator of its own for each number, so that none depends on the arms or metrics beside it."""
    return np.random.default_rng([zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names])
