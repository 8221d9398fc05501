"""The pictures of docs/metrics.md on morph and drift."""

import numpy as np
from matplotlib.figure import Figure
from metric_charts import BLUE, GREEN, PAN, RED, chart, legend, panels, picture, triple, value_of
from synthetic_clips import DISTORTIONS, clean_clip, moving_square

from video_diffusion.metrics import measure
from video_diffusion.metrics.drift import Drift, histogram_distance
from video_diffusion.metrics.image import similarity_map
from video_diffusion.metrics.morph import morphing
from video_diffusion.metrics.views import Frame


def morph() -> Figure:
    """A square whose outline breathes: what flicker and morph say of it, and where it goes to and fro."""
    bulges = np.random.default_rng(2).normal(0, 1, 12)
    strengths = (0, 0.5, 1, 2, 4)
    reports = [measure(moving_square((strength * bulges).tolist(), 160), 8).values for strength in strengths]
    figure, axes = panels(4, [1.5, 1, 1, 1], height=2.0)
    for name, colour in (("morph", RED), ("flicker", BLUE)):
        axes[0].plot(strengths, [each[name].value for each in reports], color=colour, marker=".", label=name)
    legend(axes[0])
    chart(axes[0], "morph and flicker", "RMS bulge of the sides, px at 256", "px at 256, levels")
    frames = moving_square((4 * bulges).tolist(), 160)
    place = int(np.nanargmax(np.array(reports[-1]["morph"].series, dtype=float)))
    found = morphing(triple(frames, place).points)
    picture(axes[1], frames[place], f"frame {place}")
    picture(axes[2], frames[place + 1], f"frame {place + 1}")
    shown = picture(axes[3], found.map, "to and fro, px at 256", cmap="inferno")
    figure.colorbar(shown, ax=axes[3], shrink=0.8).ax.tick_params(labelsize=6)
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
