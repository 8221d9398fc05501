"""The clips of the report: one card for each prompt and seed, one cell in it for each setting."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from video_diffusion.comparison.report_table import arm_badges, short_label
from video_diffusion.comparison.summary import Arm, ClipMeasure, ClipResult, ComparisonSummary, MetricSummary
from video_diffusion.web import ClipView, SliceLine, number, with_pictures


@dataclass(frozen=True)
class PairCard:
    """The clips of one prompt and seed under every setting; `anchor` is the card's id on the page."""

    anchor: str
    prompt: str
    seed: int
    cells: tuple[ClipView, ...]

    @property
    def key(self) -> tuple[str, int]:
        """As `ClipResult.key`."""
        return self.prompt, self.seed


def view_pairs(summary: ComparisonSummary, folder: Path) -> list[PairCard]:
    """Every card in the declared order; the slices of a card follow the same line, the baseline's choice.

    Args:
        summary: of the comparison.
        folder: that the clips' paths are relative to.
    """
    clips = {(clip.key, clip.arm): clip for clip in summary.clips}
    keys = list(dict.fromkeys(clip.key for clip in summary.clips))
    curve = _curve_metric(summary)
    peak = _peak(summary, curve)
    cards = []
    for index, (prompt, seed) in enumerate(keys):
        cells: list[ClipView] = []
        line: SliceLine | None = None
        for arm in summary.arms:  # the baseline first
            clip = clips.get(((prompt, seed), arm.label))
            view = with_pictures(_view(summary, arm, prompt, seed, clip, curve, peak), folder, line)
            if arm.is_baseline and view.pictures is not None:
                line = view.pictures.line
            cells.append(view)
        cards.append(PairCard(f"pair-{index}", prompt, seed, tuple(cells)))
    return cards


def _view(
    summary: ComparisonSummary,
    arm: Arm,
    prompt: str,
    seed: int,
    clip: ClipResult | None,
    curve: MetricSummary | None,
    peak: float,
) -> ClipView:
    base = ClipView(
        title=short_label(arm),
        badge=arm_badges(summary)[arm.label],
        description=f"{arm.label}: {prompt}, seed {seed}",
        is_reference=arm.is_baseline,
    )
    if clip is None or clip.error or not clip.path:
        return replace(base, problem=clip.error if clip is not None and clip.error else "It was not made")
    main = [metric.name for metric in summary.metrics if metric.role != "other"]
    measured = {name: clip.measures[name] for name in main if name in clip.measures}
    return replace(
        base,
        path=clip.path,
        record=clip.record,
        command=clip.command,
        fps=clip.fps,
        num_frames=clip.num_frames,
        width=clip.width,
        height=clip.height,
        series=clip.series.get(curve.name, ()) if curve else (),
        series_label=f"{curve.name} in {curve.unit}" if curve else "",
        series_peak=peak,
        facts={name.replace("_", " "): _fact(measure) for name, measure in measured.items()},
        keys={
            name: measure.value
            for name, measure in measured.items()
            if measure.value is not None and math.isfinite(measure.value)
        },
    )


def _fact(measure: ClipMeasure) -> str:
    """The value, and what there is to know about it."""
    return number(measure.value) + ("" if measure.status == "ok" else f" {measure.status.replace('_', ' ')}")


def _curve_metric(summary: ComparisonSummary) -> MetricSummary | None:
    """The first metric with a value for each frame: the headline, where it has them."""
    named = {name for clip in summary.clips for name, series in clip.series.items() if any(series)}
    return next((metric for metric in summary.metrics if metric.name in named), None)


def _peak(summary: ComparisonSummary, curve: MetricSummary | None) -> float:
    """The top of every curve's box: the largest value, at least 1, so that next to nothing looks like it."""
    if curve is None:
        return 0.0
    values = [
        value for clip in summary.clips for value in clip.series.get(curve.name, ()) if value is not None
    ]
    return max([1.0, *(value for value in values if math.isfinite(value))])
