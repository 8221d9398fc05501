"""Pictures of a measured clip: its curves over its frames, and the triples where it flickers most."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from video_diffusion.cli.measure_files import MeasuredClip
from video_diffusion.io import atomic_path
from video_diffusion.metrics.report import ConsistencyReport, format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("flicker", "luma_flicker", "warp_psnr", "motion", "flow_jitter", "mean_luma")
FROM_ZERO = ("flicker", "luma_flicker", "motion", "flow_jitter")
"""Their axis starts at 0 and reaches 1 at least, so that next to nothing looks like it."""
INK, FAINT, ACCENT = "#1d2433", "#8b93a3", "#c8445a"
MOST_POINTS = 2000
MARKED = 3
NUM_THUMBNAILS = 12


def _figure(width: float | int, height: float | int) -> "Figure":
    """An empty figure that needs no screen."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "video-diffusion"}):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), metadata=None)


def _thinned(numbers: Sequence[int], values: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points: of each stretch of frames the largest value, so that no peak is lost."""
    frames = np.array(numbers, dtype=np.float64)
    heights = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    stretch = -(-len(frames) // MOST_POINTS)
    if stretch <= 1:
        return frames, heights
    padded = np.pad(heights, (0, -len(heights) % stretch), constant_values=np.nan).reshape(-1, stretch)
    with np.errstate(invalid="ignore"):
        peaks = np.where(np.isnan(padded).all(axis=1), np.nan, np.fmax.reduce(padded, axis=1))
    return frames[::stretch], peaks


def worst_frames(report: ConsistencyReport, count: int = MARKED) -> list[int]:
    """Numbers of the frames with the largest flicker, worst first; none when nothing flickers."""
    entries = zip(report.frame_numbers, report.values["flicker"].series, strict=False)  # too short: no series
    scored = [(value, index) for index, value in entries if value]
    return [index for _, index in sorted(scored, reverse=True)[:count]]


def draw_curves(clip: MeasuredClip, path: Path) -> None:
    """Write the per-frame curves of a clip with its frames underneath, the worst ones marked.

    Raises:
        OSError: no space, no permission.
    """
    report = clip.report
    assert report is not None
    names = [name for name in CURVES if name in report.values and any(report.values[name].series)]
    figure = _figure(9, 1.15 * len(names) + 1.7)
    rows = figure.subplots(len(names) + 1, 1, height_ratios=[1] * len(names) + [1.1], squeeze=False)[:, 0]
    marked = worst_frames(report)
    last = max(report.num_frames - 1, 1)
    for axes, name in zip(rows, names, strict=False):
        measured = report.values[name]
        frames, heights = _thinned(report.frame_numbers, measured.series)
        axes.plot(frames, heights, color=INK, linewidth=1.2, marker="." if len(frames) <= 64 else None)
        for index in marked:
            axes.axvline(index, color=ACCENT, linewidth=0.8, alpha=0.6)
        axes.set_title(
            f"{name}  {format_value(measured.value)} {measured.unit}, {measured.status}",
            loc="left",
            fontsize=8,
        )
        axes.tick_params(labelsize=7, colors=FAINT)
        if name in FROM_ZERO:
            axes.set_ylim(0, max(1.0, 1.1 * float(np.nanmax(heights))))
        axes.set_xlim(-0.02 * last, 1.02 * last)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_frames(rows[-1], clip.thumbnails, marked)
    figure.suptitle(f"{Path(clip.path).name}: {report.num_frames} frames", fontsize=10, color=INK)
    _save(figure, path)


def _draw_frames(axes: Any, thumbnails: dict[int, np.ndarray], marked: Sequence[int]) -> None:
    chosen = sorted(thumbnails)
    chosen = [
        chosen[place]
        for place in np.linspace(0, len(chosen) - 1, min(len(chosen), NUM_THUMBNAILS)).astype(int)
    ]
    gap = ((0, 0), (2, 2), (0, 0))
    strip = np.concatenate([np.pad(thumbnails[index], gap, constant_values=255) for index in chosen], axis=1)
    axes.imshow(strip)
    wide = strip.shape[1] / len(chosen)
    axes.set_xticks([wide * (place + 0.5) for place in range(len(chosen))], [str(index) for index in chosen])
    axes.set_yticks([])
    axes.tick_params(labelsize=7, colors=FAINT, length=0)
    worst = ", ".join(str(index) for index in marked) or "none"
    axes.set_xlabel(f"frames; most flicker at {worst}", fontsize=8, color=ACCENT if marked else FAINT)
    axes.spines[:].set_visible(False)


def draw_worst(clip: MeasuredClip, path: Path) -> None:
    """Write a sheet of the worst triples: the three frames, and where motion does not explain the middle one.

    Raises:
        OSError: no space, no permission.
    """
    assert clip.worst
    height, width = clip.worst[0].residual.shape
    figure = _figure(10, 0.5 + len(clip.worst) * (2.4 * height / width + 0.25))
    cells = figure.subplots(len(clip.worst), 4, squeeze=False)
    ceiling = max(1.0, *(float(np.percentile(triple.residual, 99)) for triple in clip.worst))
    for row, triple in zip(cells, clip.worst, strict=True):
        for axes, step, pixels in zip(row, (-1, 0, 1), triple.frames, strict=False):
            axes.imshow(pixels)
            axes.set_title(f"frame {triple.index + step}", fontsize=8, color=INK)
        image = row[3].imshow(triple.residual, cmap="inferno", vmin=0, vmax=ceiling)
        row[3].set_title(f"not explained by motion: {triple.level:.2f} levels", fontsize=8, color=ACCENT)
        for axes in row:
            axes.set_axis_off()
    bar = figure.colorbar(image, ax=cells[:, 3].tolist(), shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{Path(clip.path).name}: where it flickers most", fontsize=10, color=INK)
    _save(figure, path)
