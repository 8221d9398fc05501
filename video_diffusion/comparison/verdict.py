"""From finished clips to what the report says: verdicts, warnings, the power of the design."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median_low
from typing import Literal, TypeAlias

from video_diffusion.comparison.statistics import (
    GUARDS,
    HEADLINE,
    Kind,
    Material,
    Place,
    compare_metrics,
    excludes_zero,
    p_reachable,
    prompts_to_reach,
    value_of,
)
from video_diffusion.comparison.summary import (
    Arm,
    Axis,
    ClipResult,
    ComparisonSummary,
    Difference,
    MetricSummary,
    Outcome,
    ParetoPoint,
    SetMotion,
    Span,
    Verdict,
    arm_badges,
    short_label,
)
from video_diffusion.metrics import ALL_METRICS
from video_diffusion.web import counted

GuardState: TypeAlias = Literal["holds", "falls", "unclear", "not comparable", "nothing to lose"]
LEAST_SHARE = 0.5
"""Of the places that must be measured on both sides before anything is said of an arm."""
SPOKEN = {"morph": "shape", "steady_sharpness": "sharpness", "levels": "levels of 255"}
"""Names and units as sentences say them, where that is not the name itself."""


@dataclass(frozen=True)
class Guard:
    """How one guard stands for one arm."""

    name: str
    state: GuardState
    difference: Difference
    unit: str
    margin: float | None

    @property
    def words(self) -> str:
        """The guard's name as it is said: prompt alignment."""
        return SPOKEN.get(self.name, self.name.replace("_", " "))

    def __str__(self) -> str:
        """What was seen of it: its difference and margin, or in how few pairs it could be compared."""
        span = self.difference.span
        if span is None or self.state == "not comparable":
            return f"{self.words} can be compared in {_of_pairs(self.difference)} only"
        margin = f", margin {self.margin:.3g}" if self.margin is not None else ""
        name = f"{self.name.replace('_', ' ')}" if self.name == "morph" else self.words
        doubtful = self.difference.num_doubtful
        marked = f" ({doubtful} of its pairs marked unmeasurable)" if doubtful else ""
        return f"{name} {told(span, self.unit)}{margin}{marked}"


def judge(
    metrics: Sequence[MetricSummary], alpha: float, unbelievable: Mapping[str, int]
) -> tuple[Verdict, ...]:
    """One verdict for each arm but the baseline; none without a headline."""
    headline = next((metric for metric in metrics if metric.name == HEADLINE), None)
    if headline is None:
        return ()
    num_arms = len(headline.differences)
    return tuple(
        _judge_arm(difference, headline, _guards(metrics, difference.arm, unbelievable), alpha, num_arms)
        for difference in headline.differences
    )


def _judge_arm(
    found: Difference, headline: MetricSummary, guards: Sequence[Guard], alpha: float, num_arms: int,
) -> Verdict:  # fmt: skip
    arm, span, p = found.arm, found.span, found.adjusted_p
    lost = [guard for guard in guards if guard.state == "falls"]
    names = tuple(guard.words for guard in lost)
    loses = f", but loses {listed(names)}" if lost else ""
    also = f"{'; but ' + ', '.join(map(str, lost)) if lost else ''}{_doubt(found)}"
    if span is None or p is None or not _is_comparable(found):
        why = f"flicker could be compared in {_of_pairs(found)} only{also}"
        return Verdict(arm, "cannot be compared", f"cannot be compared{loses}", why, names)
    if p <= alpha and excludes_zero(span):
        change = how_much(span, found.relative, headline.unit)
        if span.estimate > 0:
            words = f"flickers more{f' and loses {listed(names)}' if lost else ''}"
            return Verdict(arm, "flickers more", words, f"flicker rises by {change}{also}", names)
        paid = _judge_price(arm, f"flicker falls by {change}", guards)
        return replace(paid, sentence=f"{paid.sentence}{_doubt(found)}")
    maybe = ", flicker may be higher" if excludes_zero(span) and span.estimate > 0 else ""
    seen = f"flicker {told(span, headline.unit)}"
    if p_reachable(len(found.prompts), num_arms) > alpha:
        arms = "" if num_arms == 1 else f" with {num_arms} settings"
        needed = prompts_to_reach(alpha, num_arms)
        why = f"{counted(len(found.prompts), 'prompt')} cannot reach {alpha:g}{arms}, {needed} can; {seen}"
        return Verdict(arm, "too few to tell", f"too few to tell{maybe}{loses}", f"{why}{also}", names)
    words = f"no difference seen{maybe}{loses}"
    return Verdict(arm, "no difference seen", words, f"{seen}, p {p:.2g}{also}", names)


def _judge_price(arm: str, falls: str, guards: Sequence[Guard]) -> Verdict:
    """The verdict of an arm whose flicker falls: what it pays for that."""
    lost = [guard for guard in guards if guard.state == "falls"]
    if lost:
        names = tuple(guard.words for guard in lost)
        why = f"{falls}, and pays for it: {', '.join(map(str, lost))}"
        return Verdict(arm, "trades", f"trades {listed(names)} for coherence", why, names)
    apart = [guard for guard in guards if guard.state == "not comparable"]
    unclear = [guard for guard in guards if guard.state == "unclear"]
    why = f"{falls}, but whether it pays for that is open: {', '.join(map(str, [*apart, *unclear]))}"
    if apart:
        words = f"flickers less; {listed([guard.words for guard in apart])} cannot be compared"
        return Verdict(arm, "cannot be compared", words, why)
    if unclear:
        return Verdict(arm, "too few to tell", "too few to tell", why)
    return Verdict(arm, "wins", "wins", f"{falls}; {_told_holding(guards)}")


def _guards(metrics: Sequence[MetricSummary], arm: str, unbelievable: Mapping[str, int]) -> tuple[Guard, ...]:
    """Every guard that was measured at all, in the order of `GUARDS`."""
    found: list[Guard] = []
    for metric in sorted((m for m in metrics if m.role == "guard"), key=lambda m: list(GUARDS).index(m.name)):
        difference = next(each for each in metric.differences if each.arm == arm)
        found.append(Guard(metric.name, _state(metric, difference), difference, metric.unit, metric.margin))
    return tuple(_excused(guard, found, unbelievable.get(arm, 0)) for guard in found)


def _state(metric: MetricSummary, difference: Difference) -> GuardState:
    """Non-inferiority: the whole interval lies above minus the margin (below it for what must not rise)."""
    span = difference.span
    if span is None or metric.margin is None or not _is_comparable(difference):
        return "not comparable"
    if span.low is None or span.high is None:
        return "unclear"
    low, estimate, high = (span.low, span.estimate, span.high)
    if GUARDS[metric.name] < 0:
        low, estimate, high = -high, -estimate, -low
    if low >= -metric.margin:
        return "holds"
    return "falls" if high < 0 and estimate < -metric.margin else "unclear"


def _is_comparable(difference: Difference) -> bool:
    return difference.num_pairs >= LEAST_SHARE * (difference.num_pairs + difference.num_lost)


def _excused(guard: Guard, guards: Sequence[Guard], unbelievable: int) -> Guard:
    """A baseline whose frames do not follow one another has no motion to lose.

    That excuses an arm only if the clips still show what was asked for, motion among it: else a frozen clip
    would win against noise.
    """
    asked = next((each for each in guards if each.name == "prompt_alignment"), None)
    most = unbelievable > LEAST_SHARE * (guard.difference.num_pairs + guard.difference.num_lost) - 1e-9
    excused = most and asked is not None and asked.state == "holds"
    if guard.name == "motion" and guard.state == "not comparable" and excused:
        return Guard(guard.name, "nothing to lose", guard.difference, guard.unit, guard.margin)
    return guard


def _told_holding(guards: Sequence[Guard]) -> str:
    holding = [guard.words for guard in guards if guard.state == "holds" and guard.name != "cuts"]
    said = (
        f"{listed(holding)} {'holds' if len(holding) == 1 else 'hold'}"
        if holding
        else "nothing else was measured"
    )
    if any(guard.state == "nothing to lose" for guard in guards):
        said += ", and the baseline has no believable motion to lose"
    if not any(guard.name == "prompt_alignment" for guard in guards):
        said += " (prompt alignment was not measured)"
    return said


def _of_pairs(difference: Difference) -> str:
    return f"{difference.num_pairs} of {counted(difference.num_pairs + difference.num_lost, 'pair')}"


def _doubt(difference: Difference) -> str:
    """That numbers entered which their own measurement does not vouch for."""
    if not difference.num_doubtful:
        return ""
    return (
        f"; in {difference.num_doubtful} of {counted(difference.num_pairs, 'pair')} a flicker is marked "
        "unmeasurable: motion explains less than half of the image"
    )


def told(span: Span, unit: str) -> str:
    """A difference in words: "-2.4 [-3.1, -1.7] levels of 255"."""
    ends = "open" if span.low is None or span.high is None else f"{span.low:+.3g}, {span.high:+.3g}"
    return f"{span.estimate:+.3g} [{ends}] {SPOKEN.get(unit, unit)}"


def how_much(span: Span, relative: float | None, unit: str) -> str:
    """How much, without a sign: "2.6 levels of 255 (93 %, interval 1.4 to 4.1)"."""
    share = "" if relative is None else f"{abs(relative):.0%}, "
    size = f"{abs(span.estimate):.3g} {SPOKEN.get(unit, unit)}"
    if span.low is None or span.high is None:
        return f"{size} ({share}interval open)"
    low, high = sorted((abs(span.low), abs(span.high)))
    return f"{size} ({share}interval {low:.3g} to {high:.3g})"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 2 else words)


# What a reader must know beside the numbers: warnings, the power of the design, and how it was computed.


Shape = tuple[int, int, int, float]


def named(labels: Sequence[str]) -> str:
    """Up to three labels, and how many more there are."""
    joint = " and " if any(", " in label for label in labels) else ", "
    return joint.join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def warnings(arms: Sequence[Arm], clips: Sequence[ClipResult], num_prompts: int, alpha: float) -> list[str]:
    """Too few prompts, arms without the baseline's noise, failed clips, and clips of another shape."""
    told = []
    others = len(arms) - 1
    if p_reachable(num_prompts, others) > alpha:
        many = "" if others == 1 else f" with {others} arms against the baseline"
        told.append(
            f"{counted(num_prompts, 'prompt')} cannot reach {alpha:g}{many}, whatever is seen: add prompts "
            f"({prompts_to_reach(alpha, others)} can). {alpha:g} is how often a difference may be found "
            "where none is"
        )
    shapes = {arm.label: _shapes(clip for clip in clips if clip.arm == arm.label) for arm in arms}
    base = shapes[arms[0].label]
    badges = arm_badges(arms)
    short = {arm.label: f"{badges[arm.label]} ({short_label(arm)})" for arm in arms}
    unpaired = [short[arm.label] for arm in arms if arm.paired is False]
    if unpaired:
        are, their = ("is", "its") if len(unpaired) == 1 else ("are", "their")
        told.append(
            f"{named(unpaired)} {are} unpaired: {their} clips start from other noise than the baseline's, so "
            f"what another seed does counts in {their} differences, too"
        )
    for arm in arms:
        if arm.num_failed:
            told.append(f"{short[arm.label]}: {counted(arm.num_failed, 'clip')} failed, and left out")
        own = shapes[arm.label]
        if base and own and base != own:
            told.append(
                f"{short[arm.label]} has clips of {_told_shapes(own)}, the baseline of {_told_shapes(base)}: "
                "measures depend on length, size and frame rate, so this is another experiment"
            )
    palettes = {arm.label: [_is_palette(clip) for clip in clips if clip.arm == arm.label] for arm in arms}
    shares = {label: sum(each) / len(each) for label, each in palettes.items() if each}
    differ = [short[label] for label, share in shares.items() if share != shares.get(arms[0].label, share)]
    if differ:
        told.append(
            f"{named(differ)}: palette images (GIF) where the baseline's are none, or the other way round; a "
            "palette's dithering reads as flicker, so compare files of one kind"
        )
    return told


def _is_palette(clip: ClipResult) -> bool:
    return clip.path.lower().endswith(".gif") or any("256 colours" in note for note in clip.notes)


def peeking(looks: Sequence[str], now: str) -> list[str]:
    """The warning that results were seen before the design grew; nothing where they were not."""
    if not looks:
        return []
    return [
        f"this comparison was looked at with {', then '.join(looks)} before it had {now}: p holds only if "
        "the size was fixed beforehand; adding seeds or prompts until something shows finds it by chance"
    ]


def power(metrics: Sequence[MetricSummary], verdicts: Sequence[Verdict], alpha: float) -> str:
    """How many prompts would show the declared difference in flicker; "" where no number of them helps."""
    headline = next((metric for metric in metrics if metric.name == HEADLINE), None)
    if headline is None or not headline.margin:
        return ""
    apart = {verdict.arm for verdict in verdicts if verdict.outcome == "cannot be compared"}
    counts = [each.prompts_needed for each in headline.differences if each.arm not in apart]
    needed = [count for count in counts if count is not None]
    if not needed:
        return ""
    arms = len(headline.differences)
    several = f" (over {arms} settings, for the middle one)" if arms > 1 else ""
    return (
        f"If flicker truly differed by {headline.margin:.3g} {SPOKEN.get(headline.unit, headline.unit)}, "
        f"about {median_low(needed)} prompts like these would show it in four comparisons of five{several}, "
        f"with a chance of {100 * alpha:g} % to be fooled where nothing differs."
    )


def design_notes(num_others: int, num_prompts: int, num_seeds: int, alpha: float) -> list[str]:
    """The unit, the tests and what they can reach."""
    reachable = p_reachable(num_prompts, num_others)
    notes = [
        f"The unit is the prompt: {counted(num_prompts, 'prompt')} of {counted(num_seeds, 'seed')} each, and "
        "every clip is held against the baseline's of the same prompt and seed, which arXiv 2603.06672 "
        "recommends for text to video.",
        f"Intervals hold at {1 - alpha:.0%}: two-level bootstrap over prompts and seeds. p: sign-flip test "
        f"over prompts, exact up to 16 of them; adjusted by Holm over {counted(num_others, 'setting')} in "
        "flicker, by Benjamini and Hochberg over everything else.",
        f"The smallest p that {counted(num_prompts, 'prompt')} can reach here is {reachable:.2g}.",
    ]
    if num_seeds > 1:
        notes.append(
            "Noise floor: the baseline against itself, one clip with its neighbouring seed's. A difference "
            "inside it is smaller than what another seed does to a single clip."
        )
    return notes


def metric_notes(metrics: Sequence[MetricSummary], clips: Sequence[ClipResult]) -> list[str]:
    """The margins, and the clips whose flicker is mostly change that nothing explains."""
    guards = [
        f"{metric.name.replace('_', ' ')} {'-' if GUARDS[metric.name] > 0 else '+'}{metric.margin:.3g} "
        f"{metric.unit}"
        for metric in metrics
        if metric.role == "guard" and metric.margin is not None
    ]
    notes = []
    if guards:
        notes.append(
            "An arm wins only if flicker falls and the whole interval of every guard stays within its "
            f"margin: {', '.join(guards)}."
        )
    counts = Counter(
        clip.arm for clip in clips if (own := clip.measures.get(HEADLINE)) and own.status == "unmeasurable"
    )
    if counts:
        told = ", ".join(f"{arm} {count}" for arm, count in counts.items())
        notes.append(
            "Clips with believable motion in less than half of the image, whose flicker is mostly change "
            f"that nothing explains (it counts): {told}."
        )
    return notes


def _shapes(clips: Iterable[ClipResult]) -> set[Shape]:
    return {(clip.num_frames, clip.width, clip.height, clip.fps) for clip in clips if not clip.error}


def _told_shapes(shapes: set[Shape]) -> str:
    if len(shapes) > 1:
        return f"{len(shapes)} shapes"
    ((frames, width, height, fps),) = shapes
    return f"{frames} frames of {width}x{height} at {fps:g} fps"


# From finished clips to everything that the report shows.


ALIGNMENT = Kind("prompt_alignment", "share of what is named", "higher", "prompt")
WORST_FIRST: Sequence[Outcome] = (
    "flickers more", "cannot be compared", "trades", "too few to tell", "no difference seen", "wins"
)  # fmt: skip
KINDS = (*(Kind(m.name, m.unit, m.direction, m.group) for m in ALL_METRICS), ALIGNMENT)


@dataclass(frozen=True)
class Findings:
    """A comparison whose clips are there, before anything is computed of them.

    Attributes:
        title, command: see `ComparisonSummary`.
        arms: the baseline first.
        axes, prompts, seeds: see `ComparisonSummary`.
        clips: finished and failed ones; a place without a clip is simply absent.
        margins, alpha: see `Material`.
        warnings: known before the statistics.
        notes: likewise.
        kinds: metrics to compare, if their clips have them.
        versions: of this program and its libraries.
        looks: sizes at which earlier results of this comparison were seen.
        sets, reference: see `ComparisonSummary`.
    """

    title: str
    command: str
    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    clips: tuple[ClipResult, ...]
    margins: Mapping[str, float]
    alpha: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = KINDS
    versions: Mapping[str, str] = field(default_factory=dict)
    looks: tuple[str, ...] = ()
    sets: tuple[SetMotion, ...] = ()
    reference: str = ""


def summarise(found: Findings) -> ComparisonSummary:
    """Compares every arm with the baseline in every metric, and says what follows."""
    places: list[Place] = [(prompt, seed) for prompt in found.prompts for seed in found.seeds]
    labels = [arm.label for arm in found.arms]
    by_arm: dict[str, dict[Place, ClipResult]] = {label: {} for label in labels}
    for clip in found.clips:
        if not clip.error:
            by_arm[clip.arm][clip.key] = clip
    material = Material(by_arm, places, found.margins, found.alpha)
    metrics = compare_metrics(material, found.kinds)
    verdicts = judge(metrics, found.alpha, _unbelievable(material))
    order = {label: rank for rank, label in enumerate(labels)}
    rank = {place: index for index, place in enumerate(places)}
    clips = sorted(found.clips, key=lambda clip: (rank.get(clip.key, len(rank)), order[clip.arm]))
    return ComparisonSummary(
        title=found.title,
        sentence=headline_sentence(verdicts, found.arms),
        command=found.command,
        baseline=labels[0],
        prompts=found.prompts,
        seeds=found.seeds,
        arms=found.arms,
        axes=found.axes,
        metrics=metrics,
        verdicts=verdicts,
        pareto=_pareto(metrics, labels[0]),
        warnings=(*found.warnings, *warnings(found.arms, clips, len(found.prompts), found.alpha)),
        power=power(metrics, verdicts, found.alpha),
        notes=(
            *found.notes,
            *design_notes(len(labels) - 1, len(found.prompts), len(found.seeds), found.alpha),
            *metric_notes(metrics, clips),
        ),
        clips=tuple(clips),
        alpha=found.alpha,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=found.versions,
        looks=found.looks,
        sets=found.sets,
        reference=found.reference,
    )


def headline_sentence(verdicts: Sequence[Verdict], arms: Sequence[Arm]) -> str:
    """The verdict on everything in one sentence, never milder than the worst of them.

    Several arms are told by letter and short label, with what each loses, the worst first.
    """
    if not verdicts:
        return "Flicker could not be measured, so nothing can be said."
    if len(verdicts) == 1:
        only = verdicts[0]
        is_verb = only.outcome in {"wins", "trades", "flickers more"} or only.words.startswith("flickers")
        return f"Against {arms[0].label}, {only.arm}{' ' if is_verb else ': '}{only.words}: {only.sentence}."
    badges = arm_badges(arms)
    short = {arm.label: f"{badges[arm.label]} ({short_label(arm)})" for arm in arms}
    groups: dict[str, list[str]] = {}

    def kindness(each: Verdict) -> tuple[bool, bool, int]:
        return not each.lost, "may be higher" not in each.words, WORST_FIRST.index(each.outcome)

    for verdict in sorted(verdicts, key=kindness):
        groups.setdefault(verdict.words, []).append(short[verdict.arm])
    parts = "; ".join(f"{words}: {named(members)}" for words, members in groups.items())
    return f"Against {short[arms[0].label]}, of {len(verdicts)} settings: {parts}."


def _unbelievable(material: Material) -> dict[str, int]:
    """For each arm, the places where its motion can be measured and the baseline's cannot."""
    base = material.arms[material.baseline]
    gone = [place for place in material.places if place in base and value_of(base[place], "motion") is None]
    return {
        label: sum(value_of(clips.get(place), "motion") is not None for place in gone)
        for label, clips in material.arms.items()
    }


def _pareto(metrics: Sequence[MetricSummary], baseline: str) -> tuple[ParetoPoint, ...]:
    means = {
        metric.name: {mean.arm: mean.span for mean in metric.means if mean.span is not None}
        for metric in metrics
    }
    flicker, motion, sharpness, morph = (
        means.get(name, {}) for name in (HEADLINE, "motion", "steady_sharpness", "morph")
    )
    sharpness = sharpness or means.get("sharpness", {})
    arms = [arm for arm in flicker if arm in motion]
    if not all(arm in morph for arm in arms):
        morph = {}
    costs = {
        arm: (
            flicker[arm].estimate,
            -motion[arm].estimate,
            *([morph[arm].estimate] if morph else []),
        )
        for arm in arms
    }

    def is_beaten(arm: str) -> bool:
        own = costs[arm]
        return any(
            other != own and all(mine >= theirs for mine, theirs in zip(own, other, strict=True))
            for other in costs.values()
        )

    return tuple(
        ParetoPoint(
            arm=arm,
            is_baseline=arm == baseline,
            flicker=flicker[arm],
            motion=motion[arm],
            sharpness=sharpness[arm].estimate if arm in sharpness else None,
            morph=morph.get(arm),
            on_front=not is_beaten(arm),
        )
        for arm in arms
    )
