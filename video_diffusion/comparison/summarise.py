"""From finished clips to everything that the report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from video_diffusion.comparison import caveats
from video_diffusion.comparison.differences import HEADLINE, Kind, Material, compare_metrics
from video_diffusion.comparison.pairs import Place, value_of
from video_diffusion.comparison.summary import (
    Arm,
    Axis,
    ClipResult,
    ComparisonSummary,
    MetricSummary,
    Outcome,
    ParetoPoint,
    Verdict,
)
from video_diffusion.comparison.verdict import judge
from video_diffusion.metrics import ALL_METRICS

ALIGNMENT = Kind("prompt_alignment", "share of what is named", "higher", "prompt")
MANY: Mapping[Outcome, str] = {
    "wins": "less flicker at no price", "trades": "less flicker, but paid for",
    "flickers more": "more flicker",
    "no difference seen": "no difference seen", "too few to tell": "too few to tell",
}  # fmt: skip
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
        sentence=headline_sentence(verdicts, labels[0]),
        command=found.command,
        baseline=labels[0],
        prompts=found.prompts,
        seeds=found.seeds,
        arms=found.arms,
        axes=found.axes,
        metrics=metrics,
        verdicts=verdicts,
        pareto=_pareto(metrics, labels[0]),
        warnings=(*found.warnings, *caveats.warnings(found.arms, clips, len(found.prompts), found.alpha)),
        power=caveats.power(metrics, found.alpha),
        notes=(
            *found.notes,
            *caveats.design_notes(len(labels) - 1, len(found.prompts), len(found.seeds), found.alpha),
            *caveats.metric_notes(metrics, clips),
        ),
        clips=tuple(clips),
        alpha=found.alpha,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=found.versions,
        looks=found.looks,
    )


def headline_sentence(verdicts: Sequence[Verdict], baseline: str) -> str:
    """The verdict on everything in one sentence."""
    if not verdicts:
        return "Flicker could not be measured, so nothing can be said."
    if len(verdicts) == 1:
        only = verdicts[0]
        is_verb = only.outcome in {"wins", "trades", "flickers more"}
        return f"Against {baseline}, {only.arm}{' ' if is_verb else ': '}{only.words}: {only.sentence}."
    parts = []
    for outcome in MANY:
        arms = [verdict.arm for verdict in verdicts if verdict.outcome == outcome]
        if arms:
            parts.append(f"{MANY[outcome]}: {caveats.named(arms)}")
    return f"Against {baseline}, of {len(verdicts)} settings: {'; '.join(parts)}."


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
    flicker, motion, sharpness = (means.get(name, {}) for name in (HEADLINE, "motion", "sharpness"))
    arms = [arm for arm in flicker if arm in motion]

    def is_beaten(arm: str) -> bool:
        own = flicker[arm].estimate, -motion[arm].estimate
        others = [(flicker[other].estimate, -motion[other].estimate) for other in arms if other != arm]
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in others)

    return tuple(
        ParetoPoint(
            arm=arm,
            is_baseline=arm == baseline,
            flicker=flicker[arm],
            motion=motion[arm],
            sharpness=sharpness[arm].estimate if arm in sharpness else None,
            on_front=not is_beaten(arm),
        )
        for arm in arms
    )
