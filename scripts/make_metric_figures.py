"""Draw the pictures of docs/metrics.md: one for each metric, measured on clips of known truth.

python scripts/make_metric_figures.py
Writes docs/images/metrics/*.png. About two minutes on one core.
"""

import argparse
import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from video_diffusion.io import atomic_path
from video_diffusion.metrics import measure
from video_diffusion.metrics.distortions import DISTORTIONS, WINDOW_STARTS
from video_diffusion.metrics.drift import Drift, histogram_distance
from video_diffusion.metrics.flash_safety import relative_luminance
from video_diffusion.metrics.luma import cell_means
from video_diffusion.metrics.luma_spectrum import periodogram
from video_diffusion.metrics.optical_flow import DisFlow
from video_diffusion.metrics.report import ConsistencyReport
from video_diffusion.metrics.structural_similarity import similarity_map
from video_diffusion.metrics.synthetic_clips import clean_clip
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


def value_of(report: ConsistencyReport, name: str) -> float:
    """The value of a metric that these clips have."""
    value = report.values[name].value
    assert value is not None
    return value


def line(axes: Any, report: ConsistencyReport, name: str, label: str, colour: str) -> None:
    """The per-frame values of one metric."""
    axes.plot(np.array(report.values[name].series, dtype=float), color=colour, marker=".", label=label)
    legend(axes)


def legend(axes: Any) -> None:
    """The legend to the right of the curves, where it covers nothing."""
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def triple(frames: np.ndarray, centre: int) -> Triple:
    """Three neighbouring frames, ready to be looked at."""
    method, views = DisFlow(), [Frame(index, 0.0, frames[index]) for index in range(centre - 1, centre + 2)]
    return Triple(Pair(views[0], views[1], method), Pair(views[1], views[2], method))


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


def warp_psnr() -> Figure:
    """Warp PSNR over the strength of noise, on two clips, and one noisy frame."""
    noise = DISTORTIONS["frame noise"]
    figure, axes = panels(2, [1.4, 1])
    for texture, colour in (("bricks", RED), ("pebbles", GREEN)):
        clean = clean_clip(texture, "rotation", 2).frames
        values = [value_of(measure(noise.apply(clean, each), 8), "warp_psnr") for each in noise.strengths]
        axes[0].plot(noise.strengths, values, color=colour, marker=".", label=texture)
        axes[0].axhline(value_of(measure(clean, 8), "warp_psnr"), color=colour, linestyle=":", label="clean")
    legend(axes[0])
    chart(axes[0], "warp_psnr", "σ of the noise, levels", "dB")
    picture(axes[1], noise.apply(PAN, 12)[8], "noise of σ 12")
    return figure


def warp_ssim() -> Figure:
    """Two neighbours, the second fetched onto the first, and the similarity at each pixel."""
    frames = DISTORTIONS["texture boiling"].apply(PAN, 1.2)
    pair = triple(frames, 7).after
    figure, axes = panels(4, height=1.9)
    picture(axes[0], pair.first.rgb, "frame 7")
    picture(axes[1], pair.second.rgb, "frame 8")
    picture(axes[2], pair.second_on_first.astype(np.uint8), "frame 8 fetched onto 7")
    fetched = Frame(0, 0.0, np.rint(pair.second_on_first).astype(np.uint8))
    shown = picture(
        axes[3], similarity_map(pair.first.luma, fetched.luma), "similarity (SSIM)", vmin=0, vmax=1
    )
    figure.colorbar(shown, ax=axes[3], shrink=0.8).ax.tick_params(labelsize=6)
    return figure


def coverage() -> Figure:
    """Where flow can be believed when a region boils, and when the picture moves out at the edge."""
    boiling, pan = PAN.copy(), clean_clip("pebbles", "pan", 6).frames
    boiling[:, 24:72, 36:92] = DISTORTIONS["texture boiling"].apply(PAN, 5)[:, 24:72, 36:92]
    figure, axes = panels(4, height=1.9)
    for place, frames, label in ((0, boiling, "the middle boils"), (2, pan, "clean pan of 6 px")):
        view = triple(frames, 7)
        valid = view.before.backward_valid.astype(int) + view.after.forward_valid
        report = measure(frames, 8)
        share = report.values["coverage"]
        picture(axes[place], frames[7], label)
        title = f"coverage {share.value:.2f}, unexplained {share.details['unexplained']:.2f}"
        picture(axes[place + 1], valid, title, cmap="RdYlGn", vmin=0, vmax=2)
    return figure


def drift() -> Figure:
    """Histogram distance against the lag for a fade, for flicker and for a clean pan."""
    figure, axes = panels(1)
    clips = {
        "slow drift": (DISTORTIONS["slow drift"].apply(PAN, 30), RED),
        "brightness flicker": (DISTORTIONS["brightness flicker"].apply(PAN, 8), BLUE),
        "clean pan": (PAN, GREEN),
    }
    for name, (frames, colour) in clips.items():
        portraits = [Drift().look(Frame(0, 0.0, frame)) for frame in frames]
        means = [
            np.mean([sum(histogram_distance(a, b)) for a, b in zip(portraits, portraits[lag:], strict=False)])
            for lag in (1, 2, 4, 8)
        ]
        value = measure(frames, 8, metrics=["drift"]).values["drift"].value
        axes[0].plot(
            (1, 2, 4, 8), means, color=colour, marker="o", label=f"{name}: drift {value:.2f} levels/frame"
        )
    legend(axes[0])
    chart(axes[0], "distance of histograms", "frames apart", "levels")
    return figure


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


def sharpness() -> Figure:
    """One noisy clip at three sharpnesses: less flicker, and why."""
    noisy = DISTORTIONS["frame noise"].apply(PAN, 8)
    figure, axes = panels(3, height=2.1)
    for axis, sigma in zip(axes, (0.0, 1.0, 2.0), strict=True):
        soft = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame for frame in noisy])
        values = measure(soft, 8).values
        told = f"flicker {values['flicker'].value:.2f}, sharpness {values['sharpness'].value:.1f}"
        picture(axis, soft[8], f"blurred by {sigma:g} px\n{told}" if sigma else f"as it is\n{told}")
    return figure


def mean_luma() -> Figure:
    """One flickering clip at three exposures: less flicker, and why."""
    flickering = DISTORTIONS["brightness flicker"].apply(PAN, 8)
    figure, axes = panels(3, height=2.1)
    for axis, exposure in zip(axes, (1.0, 0.5, 0.25), strict=True):
        frames = np.rint(flickering * exposure).astype(np.uint8)
        values = measure(frames, 8).values
        told = f"flicker {values['flicker'].value:.2f}, mean luma {values['mean_luma'].value:.0f}"
        picture(axis, frames[8], f"exposure × {exposure:g}\n{told}", vmin=0, vmax=255)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "raw_flicker": raw_flicker,
    "flicker": flicker,
    "luma_flicker": luma_flicker,
    "luma_spectrum": luma_spectrum,
    "seam_excess": seam_excess,
    "flash_safety": flash_safety,
    "warp_psnr": warp_psnr,
    "warp_ssim": warp_ssim,
    "coverage": coverage,
    "drift": drift,
    "motion": motion,
    "flow_jitter": flow_jitter,
    "duplicate_pairs": duplicate_pairs,
    "cuts": cuts,
    "sharpness": sharpness,
    "mean_luma": mean_luma,
}


def save(figure: Figure, path: Path) -> None:
    """Write a PNG with a palette of 128 colours, a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    reduced = (
        Image.open(drawn)
        .convert("RGB")
        .quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    with atomic_path(path) as part:
        reduced.save(part, format="PNG", optimize=True)


def main() -> None:
    """Draw all figures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *FIGURES], help="only these")
    parser.add_argument("--out", type=Path, default=Path("docs/images/metrics"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or FIGURES:
        path = options.out / f"{name}.png"
        save(FIGURES[name](), path)
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
