"""What the pictures of docs/metrics.md share: clips, colours, the look of charts and of pictures."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic_clips import clean_clip

from video_diffusion.metrics.flow import DisFlow
from video_diffusion.metrics.report import ConsistencyReport
from video_diffusion.metrics.views import Frame, Pair, Triple

INK, FAINT, BLUE, RED, GREEN = "#1d2433", "#8b93a3", "#2f6fb3", "#c8445a", "#3b8f5a"
PAN = clean_clip("pebbles", "pan", 2).frames
FAST_PAN = clean_clip("waves", "pan", 8).frames
STILL = np.repeat(PAN[:1], 16, axis=0)


def panels(columns: int, widths: list[float] | None = None, height: float = 2.2) -> tuple[Figure, Any]:
    """An empty figure of one row."""
    figure = Figure(figsize=(8.4, height), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, width_ratios=widths, squeeze=False)[0]
    return figure, axes


def chart(axes: Any, title: str, across: str = "frame", up: str = "") -> None:
    """The look of all charts."""
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xlabel(across, fontsize=8, color=FAINT)
    axes.set_ylabel(up, fontsize=8, color=FAINT)
    axes.tick_params(labelsize=7, colors=FAINT)
    axes.spines[["top", "right"]].set_visible(False)


def picture(axes: Any, pixels: np.ndarray, title: str, **look: Any) -> Any:
    """One image without axes."""
    axes.set_title(title, fontsize=8, color=INK)
    axes.set_axis_off()
    return axes.imshow(pixels, **look)


def line(axes: Any, report: ConsistencyReport, name: str, label: str, colour: str) -> None:
    """The per-frame values of one metric."""
    axes.plot(np.array(report.values[name].series, dtype=float), color=colour, marker=".", label=label)
    legend(axes)


def legend(axes: Any) -> None:
    """The legend to the right of the curves, where it covers nothing."""
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def value_of(report: ConsistencyReport, name: str) -> float:
    """The value of a metric that these clips have."""
    value = report.values[name].value
    assert value is not None
    return value


def triple(frames: np.ndarray, centre: int) -> Triple:
    """Three neighbouring frames, ready to be looked at."""
    method, views = DisFlow(), [Frame(index, 0.0, frames[index]) for index in range(centre - 1, centre + 2)]
    return Triple(Pair(views[0], views[1], method), Pair(views[1], views[2], method))
