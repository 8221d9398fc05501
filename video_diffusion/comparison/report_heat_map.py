"""Heat maps as numbers: the means of a two-axis grid, each in its place."""

import math
from dataclasses import dataclass

from video_diffusion.comparison.report_axes import Tick
from video_diffusion.comparison.report_table import arm_badges
from video_diffusion.comparison.summary import ComparisonSummary, MetricSummary
from video_diffusion.web import number

CELL_WIDTH, CELL_HEIGHT = 76.0, 44.0


@dataclass(frozen=True)
class HeatCell:
    """One place of a two-axis grid; `share` runs from 0 (lowest) to 1."""

    at: tuple[float, float]
    text: str
    share: float | None
    badge: str
    is_baseline: bool
    words: str


@dataclass(frozen=True)
class HeatMap:
    """One metric's means over a two-axis grid."""

    metric: MetricSummary
    across: str
    down: str
    columns: tuple[Tick, ...]
    rows: tuple[Tick, ...]
    cells: tuple[HeatCell, ...]
    left: float
    width: float
    height: float


def draw_heat_maps(summary: ComparisonSummary) -> list[HeatMap]:
    """For a grid of two axes: the headline and the guards, each a map of means; else nothing."""
    if len(summary.axes) != 2:
        return []
    return [
        _heat_map(summary, metric)
        for metric in summary.metrics
        if metric.role != "other" and any(mean.span for mean in metric.means)
    ]


def _heat_map(summary: ComparisonSummary, metric: MetricSummary) -> HeatMap:
    down, across = summary.axes
    badges = arm_badges(summary)
    means = {mean.arm: mean.span.estimate for mean in metric.means if mean.span}
    finite = [value for value in means.values() if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    left = 14 + 7.2 * max((min(len(value), 16) for value in down.values), default=1)
    cells = []
    for arm in summary.arms:
        if arm.place.get(down.name) not in down.values or arm.place.get(across.name) not in across.values:
            continue
        column, row = across.values.index(arm.place[across.name]), down.values.index(arm.place[down.name])
        value = means.get(arm.label)
        share = (value - low) / (high - low) if value is not None and high > low else None
        cells.append(
            HeatCell(
                at=(left + column * CELL_WIDTH, 24 + row * CELL_HEIGHT),
                text=number(value),
                share=None if share is None else round(share, 3),
                badge=badges[arm.label],
                is_baseline=arm.is_baseline,
                words=f"{arm.label}: {number(value)} {metric.unit}",
            )
        )
    return HeatMap(
        metric=metric,
        across=across.name,
        down=down.name,
        columns=tuple(
            Tick(left + (index + 0.5) * CELL_WIDTH, text) for index, text in enumerate(across.values)
        ),
        rows=tuple(Tick(24 + (index + 0.5) * CELL_HEIGHT, text) for index, text in enumerate(down.values)),
        cells=tuple(cells),
        left=left,
        width=left + len(across.values) * CELL_WIDTH + 2,
        height=24 + len(down.values) * CELL_HEIGHT + 2,
    )
