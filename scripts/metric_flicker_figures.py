"""The pictures of docs/metrics.md on flicker."""

import numpy as np
from matplotlib.figure import Figure
from metric_charts import (
    BLUE,
    FAINT,
    FAST_PAN,
    GREEN,
    PAN,
    RED,
    STILL,
    chart,
    legend,
    line,
    panels,
    picture,
    triple,
    value_of,
)
from synthetic_clips import DISTORTIONS, WINDOW_STARTS

from video_diffusion.metrics import measure
from video_diffusion.metrics.flicker import periodogram, relative_luminance
from video_diffusion.metrics.views import cell_means


def raw_flicker() -> Figure:
    """What raw flicker and flicker say of six clips."""
    clips = {
        "frozen": STILL,
        "slow pan, flawless": PAN,
        "fast pan, flawless": FAST_PAN,
        "fast pan on twos": DISTORTIONS["stutter"].apply(FAST_PAN, 8),
        "still, boiling": DISTORTIONS["texture boiling"].apply(STILL, 1.5),
        "still, brightness ±8": DISTORTIONS["brightness flicker"].apply(STILL, 8),
    }
    reports = {name: measure(frames, 8, metrics=["raw_flicker", "flicker"]) for name, frames in clips.items()}
    figure, axes = panels(2)
    for axis, name, unit in ((axes[0], "raw_flicker", "of full range"), (axes[1], "flicker", "levels")):
        values = [report.values[name].value for report in reports.values()]
        axis.barh(list(reports), values, color=[GREEN] * 3 + [FAINT] + [RED] * 2)
        axis.invert_yaxis()
        chart(axis, name, unit)
    axes[1].set_yticklabels([])
    return figure


def flicker() -> Figure:
    """Three frames, one quarter of which flickers, and what motion does not explain."""
    frames = DISTORTIONS["local flicker"].apply(PAN, 20)
    view = triple(frames, 7)
    figure, axes = panels(4, height=1.9)
    for axis, step in zip(axes, (-1, 0, 1), strict=False):
        picture(axis, frames[7 + step], f"frame {7 + step}")
    shown = picture(
        axes[3], view.residual.magnitude, f"unexplained: {view.residual.level:.1f} levels", cmap="inferno"
    )
    figure.colorbar(shown, ax=axes[3], shrink=0.8).ax.tick_params(labelsize=6)
    return figure


def luma_flicker() -> Figure:
    """Mean luma up and down, and the cells where it does."""
    frames = DISTORTIONS["local flicker"].apply(PAN, 20)
    figure, axes = panels(2, [2, 1])
    for clip, label, colour in ((PAN, "clean pan", GREEN), (frames, "a quarter flickers", RED)):
        line(axes[0], measure(clip, 8, metrics=["mean_luma"]), "mean_luma", label, colour)
    chart(axes[0], "mean luma", up="levels")
    energy = np.mean([cell_means(triple(frames, t).residual.signed_luma) ** 2 for t in range(1, 15)], axis=0)
    shown = picture(axes[1], np.sqrt(energy), "RMS of each cell, levels", cmap="inferno")
    figure.colorbar(shown, ax=axes[1], shrink=0.8).ax.tick_params(labelsize=6)
    return figure


def luma_spectrum() -> Figure:
    """The spectra of slow breathing and of fast flicker."""
    figure, axes = panels(2)
    time = np.arange(48) / 24
    for hertz, label, colour in ((1.5, "breathing at 1.5 Hz", BLUE), (9, "flicker at 9 Hz", RED)):
        level = 128 + 10 * np.sin(2 * np.pi * hertz * time)
        axes[0].plot(level, color=colour, label=label)
        power = periodogram(level[:, np.newaxis])[:, 0]
        axes[1].plot(np.arange(len(power)) / 2, power, color=colour, label=label)
    axes[1].axvspan(6, 12, color=FAINT, alpha=0.2, label="above ¼ of 24 fps")
    chart(axes[0], "mean luma", up="levels")
    chart(axes[1], "its spectrum", "Hz", "levels²")
    legend(axes[1])
    return figure


def seam_excess() -> Figure:
    """What motion leaves from frame to frame, with the starts of windows marked."""
    figure, axes = panels(1)
    for frames, label, colour in (
        (DISTORTIONS["seams"].apply(PAN, 12), "seams of 12 levels", RED), (PAN, "no seams", GREEN),
    ):  # fmt: skip
        report = measure(frames, 8, window_starts=WINDOW_STARTS)
        value, p = value_of(report, "seam_excess"), report.values["seam_excess"].details["p"]
        told = f"{label}: excess {round(value, 2) + 0.0:.2f}, p {p:.3f}"
        line(axes[0], report, "seam_excess", told, colour)
    for start in WINDOW_STARTS:
        axes[0].axvline(start, color=FAINT, linestyle=":", linewidth=0.8)
    chart(axes[0], "change along the flow; dotted: a context window starts", up="levels")
    return figure


def flash_safety() -> Figure:
    """Relative luminance of three and of four flashes a second."""
    figure, axes = panels(2)
    for axis, per_second, colour in ((axes[0], 3, GREEN), (axes[1], 4, RED)):
        bright = np.floor(np.arange(48) * 2 * per_second / 24) % 2
        frames = (np.where(bright[:, None, None, None], 189, 149) * np.ones((1, 40, 48, 3))).astype(np.uint8)
        value = value_of(measure(frames, 24, metrics=["flash_safety"]), "flash_safety")
        axis.step(np.arange(48) / 24, [relative_luminance(frame).mean() for frame in frames], color=colour)
        axis.set_ylim(0, 1)
        chart(
            axis, f"{value:.0f} flashes in the worst second: {'passes' if value <= 3 else 'fails'}", "seconds"
        )
    axes[0].set_ylabel("relative luminance", fontsize=8, color=FAINT)
    return figure
