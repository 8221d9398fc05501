"""Everything a comparison found, as frozen values: what `summary.json` holds and every report is drawn from.

Nothing here is computed again by whoever shows it. None stands for what could not be measured or has no end;
texts (prompts, labels, file names, errors) are untrusted and shown as they are.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from video_diffusion.settings import ConfigError
from video_diffusion.settings.layers import dotted

SCHEMA_VERSION = 1
SUMMARY_FILE = "summary.json"

Role: TypeAlias = Literal["headline", "guard", "other"]
Outcome: TypeAlias = Literal[
    "baseline", "wins", "trades", "flickers more", "no difference seen", "too few to tell",
    "cannot be compared",
]  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A mean and the interval around it; an end is None where too few prompts leave it open."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Axis:
    """One field that a grid varies: its name and its values as shown, in the declared order."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One setting in which an arm is not as the baseline; None stands for "not set"."""

    setting: str
    baseline: Any
    value: Any


@dataclass(frozen=True)
class Arm:
    """One setting under comparison.

    Attributes:
        label: unique, short, such as "guidance_scale=7.5".
        is_baseline: exactly one arm is.
        settings: all that its clips share, resolved; empty for clips of another tool.
        changes: where it differs from the baseline.
        place: axis name → value as shown, for arms of a grid; empty for named arms.
        paired: whether its clips start from the same noise as the baseline's; None where that is unknown.
        num_clips, num_failed: finished, and tried in vain.
    """

    label: str
    is_baseline: bool
    settings: Mapping[str, Any]
    changes: tuple[Change, ...]
    place: Mapping[str, str]
    paired: bool | None
    num_clips: int
    num_failed: int


def short_label(arm: Arm) -> str:
    """The label of an arm where there is little room: of a grid, its values without the names of the axes."""
    return " · ".join(arm.place.values()) if arm.place else arm.label


def arm_badges(arms: Sequence[Arm]) -> dict[str, str]:
    """Letters by label: A is the baseline, after Z comes AA."""
    badges: dict[str, str] = {}
    for index, arm in enumerate(arms):
        letters, rest = "", index + 1
        while rest:
            rest, place = divmod(rest - 1, 26)
            letters = chr(ord("A") + place) + letters
        badges[arm.label] = letters
    return badges


@dataclass(frozen=True)
class PromptDifference:
    """Arm minus baseline for one prompt, averaged over its seeds."""

    prompt: str
    difference: float
    num_seeds: int


@dataclass(frozen=True)
class Difference:
    """One arm against the baseline in one metric.

    Attributes:
        arm: its label.
        span: mean over prompts of arm minus baseline, with its interval; None without a measured pair.
        median: of the prompts' differences.
        relative: mean difference over `baseline_mean`, None where that is 0.
        share_better: of the pairs, in the metric's direction ("neither": share that rises).
        p: sign-flip test, two-sided; None with no pair.
        adjusted_p: after Holm over the arms (headline), or Benjamini–Hochberg over all else.
        words: such as "lower", "higher", "maybe lower" (the interval excludes 0, the adjusted p does not),
            "no difference seen", "too few to tell".
        num_pairs: measured in both arms.
        num_lost: pairs in which one side is static, unmeasurable, too short or failed.
        prompts: one number for each prompt that has a pair.
        prompts_needed: about how many show a difference of `MetricSummary.margin` (or of the estimate).
        baseline_mean, mean: of the baseline and of the arm over the same pairs, so that they differ by
            `span.estimate`.
        num_doubtful: of the pairs, those in which a side's number is marked "unmeasurable".
    """

    arm: str
    span: Span | None
    median: float | None
    relative: float | None
    share_better: float | None
    p: float | None
    adjusted_p: float | None
    words: str
    num_pairs: int
    num_lost: int
    prompts: tuple[PromptDifference, ...]
    prompts_needed: int | None
    baseline_mean: float | None = None
    mean: float | None = None
    num_doubtful: int = 0


@dataclass(frozen=True)
class ArmMean:
    """The mean of one arm over prompts, with its own interval; `num_clips` could be measured."""

    arm: str
    span: Span | None
    num_clips: int


@dataclass(frozen=True)
class MetricSummary:
    """One metric over all arms.

    Attributes:
        name, unit, direction, group: as in `metrics.Metric`; direction is lower, higher or neither.
        role: "headline" is what arms win by, a "guard" must not fall by more than `margin`.
        margin: in `unit`, for guards and the headline; None for the others.
        means: every arm, the baseline first.
        differences: every arm but the baseline, in the order of arms.
        noise_floor: the baseline against itself with other seeds; None with one seed.
    """

    name: str
    unit: str
    direction: Literal["lower", "higher", "neither"]
    group: str
    role: Role
    margin: float | None
    means: tuple[ArmMean, ...]
    differences: tuple[Difference, ...]
    noise_floor: Span | None


@dataclass(frozen=True)
class Verdict:
    """What can be said of one arm.

    Attributes:
        arm: its label.
        outcome: one of a few.
        words: the outcome with what is lost, as a headline may repeat it.
        sentence: why, with the numbers.
        lost: guards that move beyond their margins, whatever the outcome.
    """

    arm: str
    outcome: Outcome
    words: str
    sentence: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParetoPoint:
    """One arm by flicker and morph (lower is better) and motion; `on_front`: no arm beats it in all of them.

    `morph` is None where any arm's could not be measured: then the front is that of the other two.
    """

    arm: str
    is_baseline: bool
    flicker: Span
    motion: Span
    sharpness: float | None
    on_front: bool
    morph: Span | None = None


@dataclass(frozen=True)
class SetMotion:
    """How far the clips of one arm are from a reference set in how they move (`metrics.set_distance`).

    Attributes:
        arm: its label.
        distance: about 0, often below it, where both move alike; None where a set has too few clips.
        low, high: its 95 % interval.
        p: how likely sets at random would be as far apart.
        paired: mean distance of clips from the reference of the same prompt or name; None where one has none.
        num_clips, num_reference: that could be measured.
        note: why there is no distance.
    """

    arm: str
    distance: float | None
    low: float | None
    high: float | None
    p: float | None
    paired: float | None
    num_clips: int
    num_reference: int
    note: str = ""


@dataclass(frozen=True)
class ClipMeasure:
    """One metric of one clip; `status` says why there is no value."""

    value: float | None
    status: str


@dataclass(frozen=True)
class ClipResult:
    """One clip of the comparison.

    Attributes:
        arm, prompt, seed: its place; for clips of another tool the prompt is the name they are paired by.
        path: of the video, relative to the comparison's folder, with forward slashes, not percent-encoded;
            "" for a clip that failed.
        record: of the JSON record, likewise; "" without one.
        error: why it failed; "" for a finished clip.
        fps, num_frames, width, height: of the file; 0 for a clip that failed.
        measures: metric name → value.
        series: metric name → one value for each frame (None where there is none there): flicker above all.
        noise_sha256: of the initial noise, "" where unknown.
        frames_sha256: of the frames before encoding, "" where unknown.
        command: makes it again.
        notes: what reading the file told, such as that it is a palette image.
    """

    arm: str
    prompt: str
    seed: int
    path: str
    record: str
    error: str
    fps: float
    num_frames: int
    width: int
    height: int
    measures: Mapping[str, ClipMeasure]
    series: Mapping[str, tuple[float | None, ...]]
    noise_sha256: str
    frames_sha256: str
    command: str
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with the clips of other arms."""
        return self.prompt, self.seed


@dataclass(frozen=True)
class ComparisonSummary:
    """A whole comparison.

    Attributes:
        title: short, from the config or the command.
        sentence: the verdict in one sentence.
        command: makes the comparison again.
        baseline: label of the arm that the others are held against.
        prompts, seeds: in the declared order.
        arms: the baseline first.
        axes: of a grid, else empty; two axes make a heat map.
        metrics: the headline first, then the guards, then the rest.
        verdicts: every arm but the baseline.
        pareto: every arm whose flicker and motion could be measured.
        warnings: what a reader must know: unpaired arms, too few prompts, seeds added later, failed clips.
        power: how many prompts would show how much.
        notes: how the numbers were made: alpha, level, tests, adjustments.
        clips: in the order prompts × seeds × arms.
        alpha: level of the tests; intervals hold at 1 − alpha.
        created: UTC, ISO 8601.
        versions: of this program and its libraries.
        looks: sizes, such as "8 prompts × 2 seeds", at which earlier results of this comparison were seen.
        sets: every arm against the reference set, if one was given.
        reference: the folder of that set.
    """

    title: str
    sentence: str
    command: str
    baseline: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    metrics: tuple[MetricSummary, ...]
    verdicts: tuple[Verdict, ...]
    pareto: tuple[ParetoPoint, ...]
    warnings: tuple[str, ...]
    power: str
    notes: tuple[str, ...]
    clips: tuple[ClipResult, ...]
    alpha: float = 0.05
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    looks: tuple[str, ...] = ()
    sets: tuple[SetMotion, ...] = ()
    reference: str = ""
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        return f"<ComparisonSummary {self.title!r}: {self.sentence}>"

    def _repr_html_(self) -> str:
        """The verdict, each arm with its means, and its first clip where the page lies in the folder."""
        metrics = [metric for metric in self.metrics if metric.role != "other"]
        titles = [html.escape(f"{metric.name}, {metric.unit}") for metric in metrics]
        head = "".join(f"<th>{title}</th>" for title in titles)
        rows = []
        for arm in self.arms:
            means = (next((mean for mean in each.means if mean.arm == arm.label), None) for each in metrics)
            cells = "".join(
                f"<td>{'' if mean is None or mean.span is None else f'{mean.span.estimate:.3g}'}</td>"
                for mean in means
            )
            clip = next((clip for clip in self.clips if clip.arm == arm.label and clip.path), None)
            video = clip and f'<video src="{html.escape(clip.path)}" controls autoplay loop muted></video>'
            label = html.escape(arm.label) + (" (baseline)" if arm.is_baseline else "")
            rows.append(f"<tr><td>{video or ''}</td><td>{label}</td>{cells}</tr>")
        return (
            f"<p><b>{html.escape(self.title)}</b>: {html.escape(self.sentence)}</p>"
            f"<table><tr><th></th><th>arm</th>{head}</tr>{''.join(rows)}</table>"
        )

    def metric(self, name: str) -> MetricSummary | None:
        """The metric of this name, None where it was not measured."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def verdict(self, arm: str) -> Verdict | None:
        """The verdict of an arm; None for the baseline."""
        return next((verdict for verdict in self.verdicts if verdict.arm == arm), None)

    def clip(self, arm: str, prompt: str, seed: int) -> ClipResult | None:
        """The clip at one place; None where it was not made."""
        return next((clip for clip in self.clips if (clip.arm, clip.key) == (arm, (prompt, seed))), None)

    def to_json(self) -> str:
        """Indented JSON, equal for equal summaries; ends with a newline."""
        return _ADAPTER.dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = SUMMARY_FILE) -> "ComparisonSummary":
        """Reads what `to_json` wrote."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = f" {dotted(first['loc'])}" if first["loc"] else ""
            raise ConfigError(
                f"{where}:{place} {first['msg'].lower()}; not a comparison summary, run compare again"
            ) from None


_ADAPTER: TypeAdapter[ComparisonSummary] = TypeAdapter(ComparisonSummary)
