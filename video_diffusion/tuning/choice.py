"""Which setting is taken, what the kept-back prompts say of it, and how much each setting mattered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from video_diffusion.comparison.alignment import PromptMeter
from video_diffusion.comparison.design import DEFAULT_MARGINS, Design, design_from
from video_diffusion.comparison.run import PlannedClip, collect, plan
from video_diffusion.comparison.statistics import GUARDS, HEADLINE, excludes_zero, holm, p_reachable
from video_diffusion.comparison.summary import ComparisonSummary, Difference, MetricSummary
from video_diffusion.comparison.verdict import SPOKEN, how_much, listed, summarise, told
from video_diffusion.jobs import model_facts
from video_diffusion.settings import Layer
from video_diffusion.tuning.declaration import OTHER_MARGIN, START, TIME, TuneDesign
from video_diffusion.tuning.search import Tried
from video_diffusion.web import counted, signed

Outcome: TypeAlias = Literal["better", "trades", "not confirmed", "nothing found"]
SHARE_OF_MARGIN = 0.25
"""Of its margin that a guard may lose in the search: the interval of the test must stay within the whole."""
LEAST_SHARE = 0.5
LEAST_TRIALS = 10
DRAWS = 500
COUNTED: Mapping[str, int] = {HEADLINE: -1, **GUARDS}
"""What no setting may lose, whether it is an objective or not: +1 where it must not fall."""


@dataclass(frozen=True)
class Judgement:
    """What the kept-back prompts say of the setting that the search took.

    Attributes:
        outcome: In a few words.
        sentence: With the numbers of the test.
        lost: Measures that move beyond their margins.
    """

    outcome: Outcome
    sentence: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Importance:
    """How much of what differs between trials one setting explains by itself.

    Attributes:
        share: Of the variance of the objective between trials, 0 to 1.
        low, high: The middle 95 % over random halves of the trials.
        chance: What 95 of 100 shuffles of the same trials stay below.
        num_trials: In which the setting was searched.
    """

    setting: str
    objective: str
    share: float
    low: float
    high: float
    chance: float
    num_trials: int

    @property
    def matters(self) -> bool:
        """Whether it explains more than chance would."""
        return self.share > self.chance


# Trials as arms of a comparison.


def comparison_of(
    design: TuneDesign, trials: Sequence[Tried], prompts: Sequence[str], seeds: Sequence[int], title: str
) -> Design:
    """The start against trials, as `compare` would hold them."""
    arms = {}
    for each in trials:
        arms[each.label] = dict(design.settings_of(each.values))
        if design.a_a:
            arms[each.label]["seeds"] = list(design.seeds_of(each.number, seeds))
    margins = {name: design.margins[name] for name in DEFAULT_MARGINS if name != HEADLINE}
    values = {"title": title, "arms": arms, "baseline": START, "prompts": list(prompts)}
    return design_from(Layer({**values, "seeds": list(seeds), "margins": margins, "alpha": design.alpha}))


def planned_clips(comparison: Design) -> list[PlannedClip]:
    """Every clip of such a comparison."""
    return list(plan(comparison, model_facts))


def compared(
    comparison: Design, planned: Sequence[PlannedClip], folder: Path, meter: PromptMeter, command: str
) -> ComparisonSummary:
    """Everything that the clips of such a comparison tell, the seconds they took among it."""
    found = collect(comparison, planned, folder, meter, command)
    kinds = tuple(replace(kind, direction="lower") if kind.name == TIME else kind for kind in found.kinds)
    return summarise(replace(found, kinds=kinds))


# The winner.


def choose(summary: ComparisonSummary, design: TuneDesign) -> tuple[str | None, str]:
    """The setting with the largest gain in the first objective that may not have lost anything else.

    Everything else is the other objectives and what `compare` guards: none may be worse than the start by
    more than a quarter of its margin.

    Returns:
        Its label, None for none; and the largest gain of all with what it cost, in words.
    """
    metric, sign = summary.metric(design.objectives[0]), design.directions[0]
    best, most, largest, words = None, 0.0, 0.0, ""
    for difference in metric.differences if metric is not None else ():
        if metric is None or difference.span is None or not _is_comparable(difference):
            continue
        gain = sign * difference.span.estimate
        lost = [
            _said(other.name)
            for other, each, better, margin in _others(summary, design, difference.arm)
            if each.span is None
            or not _is_comparable(each)
            or -better * each.span.estimate > SHARE_OF_MARGIN * margin
        ]
        if gain > largest:
            largest, price = gain, f", but {listed(lost)} may be lost" if lost else ""
            words = f"{difference.arm} gains most ({signed(difference.span.estimate)} {metric.unit}){price}"
        if not lost and gain > most:
            best, most = difference.arm, gain
    return best, words


def _others(
    summary: ComparisonSummary, design: TuneDesign, arm: str
) -> Iterator[tuple[MetricSummary, Difference, int, float]]:
    """Of a setting, every measure but the first objective: difference, which way is better, margin."""
    signs = {**COUNTED, **dict(zip(design.objectives, design.directions, strict=True))}
    for metric in summary.metrics:
        if metric.name == design.objectives[0] or metric.name not in signs:
            continue
        if metric.role == "other" and metric.name not in design.objectives:
            continue  # sharpness, where a better measure of it is there
        difference = next(each for each in metric.differences if each.arm == arm)
        yield metric, difference, signs[metric.name], _margin(metric, design.margins)


def _margin(metric: MetricSummary, margins: Mapping[str, float]) -> float:
    """By how much a measure may be worse, in its unit."""
    if metric.name == HEADLINE:
        return margins[HEADLINE]
    if metric.margin is not None:
        return metric.margin
    base = metric.means[0].span
    return margins.get(metric.name, OTHER_MARGIN) * (abs(base.estimate) if base is not None else 0.0)


def _is_comparable(difference: Difference) -> bool:
    return difference.num_pairs >= LEAST_SHARE * (difference.num_pairs + difference.num_lost) > 0


# The test on prompts that the search never saw.


def judge(summary: ComparisonSummary, design: TuneDesign, arm: str) -> Judgement:
    """What the comparison on the kept-back prompts says of one setting.

    Better means: the first objective gains (the sign-flip p, adjusted by Holm over every setting that was
    ever held against the start on these prompts, is at most alpha and the interval excludes 0), and the whole
    interval of everything else stays within its margin.
    """
    name, sign = design.objectives[0], design.directions[0]
    prompts, seeds = counted(len(summary.prompts), "prompt"), counted(len(summary.seeds), "seed")
    where = f"on {prompts} × {seeds} that the search never saw"
    metric = summary.metric(name)
    own = None if metric is None else next(each for each in metric.differences if each.arm == arm)
    if metric is None or own is None or own.span is None or own.p is None or not _is_comparable(own):
        return Judgement("not confirmed", f"Nothing better found: {name} cannot be compared {where}.")
    tested = [each for each in metric.differences if each.p is not None]
    p = holm([each.p or 0.0 for each in tested])[tested.index(own)]
    if sign * own.span.estimate <= 0 or not excludes_zero(own.span) or p > design.alpha:
        few = p_reachable(len(own.prompts), len(tested)) > design.alpha
        why = f" ({prompts} cannot reach {design.alpha:g} with {len(tested)} settings)" if few else ""
        seen = f"{_said(name)} {told(own.span, metric.unit)}, p {p:.2g}{why}"
        return Judgement(
            "not confirmed", f"Nothing better found: {where}, {arm} is not better than the start: {seen}."
        )
    size = how_much(own.span, own.relative, metric.unit)
    moves = f"{_said(name)} {'rises' if own.span.estimate > 0 else 'falls'} by {size}, p {p:.2g}"
    return _price(summary, design, arm, where, moves)


def _price(summary: ComparisonSummary, design: TuneDesign, arm: str, where: str, moves: str) -> Judgement:
    """What is said of a setting that gains: by what it costs."""
    words: dict[str, list[str]] = {"holds": [], "lost": [], "open": []}
    for metric, other, better, margin in _others(summary, design, arm):
        state, name = _state(other, better, margin), _said(metric.name)
        seen = told(other.span, metric.unit) if other.span is not None else "cannot be compared"
        words[state].append(name if state == "holds" else f"{name} {seen}, margin {margin:.3g}")
    if words["lost"]:
        sentence = f"Nothing better found: {where}, {moves}, but {arm} pays: {'; '.join(words['lost'])}."
        return Judgement("trades", sentence, tuple(words["lost"]))
    if words["open"]:
        price = "; ".join(words["open"])
        sentence = f"Not confirmed: {where}, {moves}, but whether {arm} pays for it is open: {price}."
        return Judgement("not confirmed", sentence)
    holding = words["holds"]
    kept = f"; {listed(holding)} {'holds' if len(holding) == 1 else 'hold'}" if holding else ""
    return Judgement("better", f"Better than the start, {where}: {moves}{kept}.")


def nothing_found(design: TuneDesign, num_tried: int, largest: str) -> Judgement:
    """What is said where no setting of the search may be held against the start."""
    settings, name = counted(num_tried, "other setting"), _said(design.objectives[0])
    told_of = f"; {largest}" if largest else ""
    return Judgement(
        "nothing found",
        f"Nothing better found: none of {settings} gained in {name} without losing elsewhere, so none was "
        f"held against the start{told_of}.",
    )


def _state(other: Difference, better: int, margin: float) -> str:
    span = other.span
    if span is None or span.low is None or span.high is None or not _is_comparable(other):
        return "open"
    low, high = (span.low, span.high) if better > 0 else (-span.high, -span.low)
    if low >= -margin:
        return "holds"
    return "lost" if high < 0 and better * span.estimate < -margin else "open"


def _said(name: str) -> str:
    return name if name == "morph" else SPOKEN.get(name, name.replace("_", " "))


# Importance.


def importances(tried: Sequence[Tried], design: TuneDesign) -> list[Importance]:
    """How much of an objective's variance between trials each setting explains by itself.

    Of every trial, those that ended early too, on the first rung's clips, which are the same for all. The
    share is ε² (Kelley 1935), unbiased where a setting does nothing, over its values or thirds of its range.
    A forest as in fANOVA has to share out all of the variance, and gives some to what does nothing.
    """
    rng = np.random.default_rng(0)
    found = []
    for name, sign in zip(design.objectives, design.directions, strict=True):
        for each in design.search:
            own = [t for t in tried if t.first and each.name in t.params]
            outcome = sign * np.array([t.first[name] for t in own])
            if len(own) < LEAST_TRIALS:
                continue
            groups = _groups([t.params[each.name] for t in own], is_choice=each.choices is not None)
            share = explained(outcome, groups)
            halves = [_half(rng, len(own)) for _ in range(DRAWS)]
            drawn = [explained(outcome[half], groups[half]) for half in halves]
            shuffled = [explained(rng.permutation(outcome), groups) for _ in range(DRAWS)]
            low, high = np.quantile(drawn, [0.025, 0.975])
            chance = float(np.quantile(shuffled, 0.95))
            found.append(Importance(each.name, name, share, float(low), float(high), chance, len(own)))
    return found


def explained(values: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> float:
    """ε²: the share of the variance that lies between groups, less what chance puts there; 0 or more."""
    labels, counts = np.unique(groups, return_counts=True)
    total = float(((values - values.mean()) ** 2).sum())
    degrees = len(values) - len(labels)
    if total == 0 or degrees <= 0 or len(labels) < 2:
        return 0.0
    means = np.array([values[groups == label].mean() for label in labels])
    between = float((counts * (means - values.mean()) ** 2).sum())
    return max(0.0, (between - (len(labels) - 1) * (total - between) / degrees) / total)


def _groups(values: Sequence[object], *, is_choice: bool) -> Int[np.ndarray, " n"]:
    if is_choice:
        texts = [repr(value) for value in values]
        return np.array([sorted(set(texts)).index(text) for text in texts])
    numbers = np.array(values, np.float64)
    return np.searchsorted(np.quantile(numbers, [1 / 3, 2 / 3]), numbers)


def _half(rng: np.random.Generator, count: int) -> Int[np.ndarray, " half"]:
    return rng.permutation(count)[: (count + 1) // 2]
