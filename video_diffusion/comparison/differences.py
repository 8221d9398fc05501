"""Every metric over all arms: means, paired differences, intervals, p, and the words that they allow."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from video_diffusion.comparison import statistics as stats
from video_diffusion.comparison.pairs import Clips, Pairs, Place, pair_up, scores
from video_diffusion.comparison.summary import (
    ArmMean,
    Difference,
    MetricSummary,
    PromptDifference,
    Role,
    Span,
)
from video_diffusion.metrics.report import Direction

HEADLINE = "flicker"
# guard → +1 if it must not fall, -1 if it must not rise
GUARDS: Mapping[str, int] = {"motion": 1, "sharpness": 1, "prompt_alignment": 1, "cuts": -1}
RELATIVE_MARGINS = frozenset({"flicker", "motion", "sharpness", "prompt_alignment"})
DRAWS: Mapping[Role, int] = {"headline": 5000, "guard": 5000, "other": 2000}


@dataclass(frozen=True)
class Kind:
    """What a metric is called and which way is better, as in `metrics.Metric`."""

    name: str
    unit: str
    direction: Direction
    group: str

    @property
    def role(self) -> Role:
        """What the metric decides."""
        if self.name == HEADLINE:
            return "headline"
        return "guard" if self.name in GUARDS else "other"


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
    found = [_compare(material, kind) for kind in sorted(kinds, key=_rank)]
    known = [metric for metric in found if metric is not None]
    headline = [metric for metric in known if metric.role == "headline"]
    rest = [metric for metric in known if metric.role != "headline"]
    return (*_adjust(headline, material, stats.holm), *_adjust(rest, material, stats.benjamini_hochberg))


def p_reachable(num_prompts: int, num_tests: int = 1) -> float:
    """The smallest Holm-adjusted p that so many prompts can reach with so many arms."""
    return min(1.0, stats.minimum_p(num_prompts) * max(1, num_tests))


def _rank(kind: Kind) -> int:
    """Where a metric stands: the headline, the guards in their order, all else as it was."""
    names = [HEADLINE, *GUARDS]
    return names.index(kind.name) if kind.name in names else len(names)


def _compare(material: Material, kind: Kind) -> MetricSummary | None:
    means = tuple(_mean(material, kind, label) for label in material.arms)
    if not any(mean.num_clips for mean in means):
        return None
    base = means[0].span.estimate if means[0].span is not None else None
    margin = _margin(material, kind, base)
    others = [label for label in material.arms if label != material.baseline]
    own = scores(material.arms[material.baseline], kind.name, material.places)
    floor = stats.a_a_differences(own)
    return MetricSummary(
        name=kind.name,
        unit=kind.unit,
        direction=kind.direction,
        group=kind.group,
        role=kind.role,
        margin=margin,
        means=means,
        differences=tuple(_difference(material, kind, label, base, margin) for label in others),
        noise_floor=_span(floor, material, kind, "A/A") if floor else None,
    )


def _mean(material: Material, kind: Kind, label: str) -> ArmMean:
    rows = scores(material.arms[label], kind.name, material.places)
    span = _span(rows, material, kind, f"mean of {label}") if rows else None
    return ArmMean(label, span, sum(len(row) for row in rows))


def _margin(material: Material, kind: Kind, base: float | None) -> float | None:
    if kind.name not in material.margins:
        return None
    margin = material.margins[kind.name]
    if kind.name in RELATIVE_MARGINS:
        return None if base is None else margin * abs(base)
    return margin


def _difference(
    material: Material, kind: Kind, label: str, base: float | None, margin: float | None
) -> Difference:
    pairs = pair_up(material.arms[material.baseline], material.arms[label], kind.name, material.places)
    if not pairs.num_pairs:
        return Difference(
            arm=label, span=None, median=None, relative=None, share_better=None, p=None, adjusted_p=None,
            words="nothing to compare", num_pairs=0, num_lost=pairs.num_lost, prompts=(), prompts_needed=None,
        )  # fmt: skip
    means = stats.prompt_means(pairs.differences)
    span = _span(pairs.differences, material, kind, label)
    num_tests = max(1, len(material.arms) - 1) if kind.role == "headline" else 1
    sought = margin if margin else span.estimate
    return Difference(
        arm=label,
        span=span,
        median=float(np.median(means)),
        relative=span.estimate / abs(base) if base else None,
        share_better=_share_better(pairs, kind.direction),
        p=stats.sign_flip_p(means, _rng(kind.name, label, "p")),
        adjusted_p=None,
        words="",
        num_pairs=pairs.num_pairs,
        num_lost=pairs.num_lost,
        prompts=tuple(
            PromptDifference(prompt, float(mean), len(row))
            for prompt, mean, row in zip(pairs.prompts, means, pairs.differences, strict=True)
        ),
        prompts_needed=stats.prompts_needed(means, sought, material.alpha / num_tests),
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


def _share_better(pairs: Pairs, direction: Direction) -> float:
    every = np.concatenate(pairs.differences)
    return float(np.mean(every < 0 if direction == "lower" else every > 0))


def _span(rows: Sequence[stats.Numbers], material: Material, kind: Kind, what: str) -> Span:
    found = stats.bootstrap_interval(
        rows, _rng(kind.name, what, "interval"), 1 - material.alpha, DRAWS[kind.role]
    )
    ends = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return Span(found.estimate, *ends)


def _rng(*names: str) -> np.random.Generator:
    """A generator of its own for each number, so that none depends on the arms or metrics beside it."""
    return np.random.default_rng([zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names])
