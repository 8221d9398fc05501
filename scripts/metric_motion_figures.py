"""The pictures of docs/metrics.md on motion."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from metric_charts import BLUE, FAINT, FAST_PAN, GREEN, PAN, RED, chart, legend, line, panels, picture, triple
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.metrics.views import Frame, Pair


def motion() -> Figure:
    """The flow of a turning picture."""
    frames = clean_clip("pebbles", "rotation", 6).frames
    pair = triple(frames, 7).after
    figure, axes = panels(3, height=1.9)
    picture(axes[0], frames[7], "a turning picture")
    y, x = np.mgrid[4:96:8, 4:128:8]
    flow = pair.forward[y, x]
    picture(axes[1], frames[7], "flow, three times as long", alpha=0.35)
    axes[1].quiver(
        x, y, 3 * flow[..., 0], 3 * flow[..., 1], color=RED, angles="xy", scale_units="xy", scale=1
    )
    shown = picture(
        axes[2], np.hypot(pair.forward[..., 0], pair.forward[..., 1]), "speed, px/frame", cmap="viridis"
    )
    figure.colorbar(shown, ax=axes[2], shrink=0.8).ax.tick_params(labelsize=6)
    return figure


def flow_jitter() -> Figure:
    """Motion and its jitter: even, on twos, and with frames dropped."""
    pan = clean_clip("pebbles", "pan", 2, 24).frames
    clips = {
        "even": (pan, GREEN),
        "every second frame doubled": (DISTORTIONS["stutter"].apply(pan, 12), RED),
        "three frames dropped": (DISTORTIONS["dropped frames"].apply(pan, 3), BLUE),
    }
    figure, axes = panels(2)
    for name, (frames, colour) in clips.items():
        report = measure(frames, 8)
        line(axes[0], report, "motion", name, colour)
        line(axes[1], report, "flow_jitter", f"{report.values['flow_jitter'].value:.2f}", colour)
    chart(axes[0], "motion", up="px/frame at 256")
    chart(axes[1], "flow_jitter", up="px/frame² at 256")
    return figure


def duplicate_pairs() -> Figure:
    """Change from frame to frame in a clip with four doubled frames."""
    report = measure(DISTORTIONS["stutter"].apply(PAN, 4), 8)
    figure, axes = panels(1)
    change = 255 * np.array(report.values["raw_flicker"].series, dtype=float)
    doubled = np.array(report.values["duplicate_pairs"].series, dtype=float) == 1
    axes[0].bar(np.arange(16), np.nan_to_num(change), color=BLUE)
    axes[0].plot(
        np.flatnonzero(doubled), np.zeros(doubled.sum()), "v", color=RED, label="equal to the frame before"
    )
    legend(axes[0])
    chart(
        axes[0],
        f"change to the frame before: {report.values['duplicate_pairs'].value:.0f} duplicate pairs",
        up="levels",
    )
    return figure


def cuts() -> Figure:
    """Coverage and what the flow leaves, in a fast pan with a cut and a flash."""
    frames = np.concatenate([FAST_PAN[:10], clean_clip("bricks", "pan", 3, 12).frames])
    frames[16] = 255 - (255 - frames[16]) // 6
    report = measure(frames, 8)
    views = [Frame(index, 0.0, frame) for index, frame in enumerate(frames)]
    pairs = [Pair(first, second, DisFlow()) for first, second in pairwise(views)]
    figure, axes = panels(2)
    series: dict[str, tuple[Any, Callable[[Pair], float], str]] = {
        "change": (axes[0], lambda pair: pair.change, FAINT),
        "what the flow leaves of it": (axes[0], lambda pair: pair.change_along_flow, RED),
        "coverage": (axes[1], lambda pair: pair.coverage, BLUE),
    }
    for name, (axis, read, colour) in series.items():
        axis.plot(np.arange(1, 22), [read(pair) for pair in pairs], color=colour, marker=".", label=name)
        legend(axis)
    found = report.values["cuts"]
    chart(
        axes[0],
        f"{found.value:.0f} cut (frame 10), {found.details['flashes']:.0f} flash (frame 16)",
        up="levels",
    )
    chart(axes[1], "coverage", up="of pixels")
    return figure
