"""How well the frames of a clip hold together: a chapter for each group of metrics, all listed here.

`measure(frames, fps)` measures a clip in memory; `Measurement` takes frames one at a time, for files of any
length. Metrics know arrays: no pipeline, no video file, no torch.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from video_diffusion.metrics.drift import Drift
from video_diffusion.metrics.flicker import (
    FlashSafety,
    Flicker,
    LumaFlicker,
    LumaSpectrum,
    RawFlicker,
    SeamExcess,
)
from video_diffusion.metrics.flow import FlowMethod, choose_flow
from video_diffusion.metrics.image import MeanLuma, Sharpness, SteadySharpness
from video_diffusion.metrics.measurement import (
    Measurement,
    Metric,
    as_fps,
    as_uint8_frames,
    as_window_starts,
    idle_cores,
)
from video_diffusion.metrics.morph import Coverage, Morph, WarpPsnr, WarpSsim
from video_diffusion.metrics.motion import FlowJitter, Motion
from video_diffusion.metrics.report import BESIDE_FLICKER, ConsistencyReport, Measure
from video_diffusion.metrics.sets import MotionFeatures, SetDistance, features_of, set_distance
from video_diffusion.metrics.shots import Cuts, DuplicatePairs, HeldFrames

UNIT = (0.0, 1.0)
LEVELS = (0.0, 255.0)
UPWARDS = (0.0, float("inf"))
EITHER_WAY = (-255.0, 255.0)

ALL_METRICS: tuple[Metric, ...] = (
    # name, unit, range, direction, group, source, start
    Metric("raw_flicker", "of full range", UNIT, "lower", "flicker", "VBench, 1 − score", RawFlicker),
    Metric("flicker", "levels", LEVELS, "lower", "flicker", "second difference along the flow", Flicker),
    Metric(
        "luma_flicker", "levels", LEVELS, "lower", "flicker", "RMS second difference of luma", LumaFlicker
    ),
    Metric("luma_spectrum", "share above ¼ fps", UNIT, "lower", "flicker", "Hann periodogram", LumaSpectrum),
    Metric(
        "seam_excess", "levels", EITHER_WAY, "lower", "flicker", "change along the flow at starts", SeamExcess
    ),
    Metric("flash_safety", "flashes/s", UPWARDS, "lower", "flicker", "WCAG 2.2 general flash", FlashSafety),
    Metric("morph", "px/frame at 256", UPWARDS, "lower", "morph", "distances that go to and fro", Morph),
    Metric("warp_psnr", "dB", (0.0, 100.0), "higher", "morph", "PSNR along the flow", WarpPsnr),
    Metric("warp_ssim", "SSIM", (-1.0, 1.0), "higher", "morph", "Wang 2004, along the flow", WarpSsim),
    Metric("coverage", "of pixels", UNIT, "higher", "morph", "forward–backward check", Coverage),
    Metric("drift", "levels/frame", LEVELS, "lower", "drift", "histogram W₁ against lag", Drift),
    Metric("motion", "px/frame at 256", UPWARDS, "neither", "motion", "mean believable flow", Motion),
    Metric(
        "flow_jitter", "px/frame² at 256", UPWARDS, "lower", "motion", "change of flow, as tOF", FlowJitter
    ),
    Metric("duplicate_pairs", "pairs", UPWARDS, "lower", "motion", "equal neighbours", DuplicatePairs),
    Metric("cuts", "cuts", UPWARDS, "neither", "motion", "coverage and change by medians", Cuts),
    Metric("sharpness", "levels/px", LEVELS, "neither", "sharpness", "RMS luma gradient", Sharpness),
    Metric(
        "steady_sharpness", "levels/px", LEVELS, "neither", "sharpness", "along the flow", SteadySharpness
    ),
    Metric("mean_luma", "levels", LEVELS, "neither", "sharpness", "mean BT.601 luma", MeanLuma),
)
"""Every weight-free metric, in the order of reports. A new one is one class, one line here and one test."""

MOTION_FEATURES = Metric(
    "motion_features", "share of points", UNIT, "neither", "motion", "after FVMD, weight-free", MotionFeatures
)
"""Not of one clip but of sets: give it to `measure` and its report to `features_of`, then `set_distance`."""

__all__ = [
    "ALL_METRICS",
    "MOTION_FEATURES",
    "ConsistencyReport",
    "Measure",
    "Measurement",
    "Metric",
    "SetDistance",
    "choose_metrics",
    "features_of",
    "measure",
    "set_distance",
]


def choose_metrics(chosen: Sequence[str | Metric] | None) -> tuple[Metric, ...]:
    """Return the lines of `ALL_METRICS` with these names in its order, then the lines given as they are.

    Motion, sharpness and mean luma come along with whatever counts flicker or morphing, since a clip that
    stands still, is blurred or black has little of it. None means all of `ALL_METRICS`.

    Raises:
        ValueError: an unknown name, or one that occurs twice.

    >>> [metric.name for metric in choose_metrics(["flicker"])]
    ['flicker', 'motion', 'sharpness', 'mean_luma']
    """
    if chosen is None:
        return ALL_METRICS
    known = {metric.name: metric for metric in ALL_METRICS}
    names = {name for name in chosen if isinstance(name, str)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"metrics has no {unknown[0]!r}; choose from {', '.join(known)}")
    own = [metric for metric in chosen if isinstance(metric, Metric) and metric not in ALL_METRICS]
    names |= {metric.name for metric in chosen if isinstance(metric, Metric) and metric in ALL_METRICS}
    if any(known[name].group in ("flicker", "morph") for name in names):
        names |= set(BESIDE_FLICKER)
    lines = (*(metric for metric in ALL_METRICS if metric.name in names), *own)
    twice = {line.name for line in lines if [other.name for other in lines].count(line.name) > 1}
    if twice:
        raise ValueError(f"metrics has two of the name {twice.pop()!r}; give each its own name")
    return lines


def measure(
    frames: Any,
    fps: Fraction | float | int,
    metrics: Sequence[str | Metric] | None = None,
    flow: str | FlowMethod | Sequence[np.ndarray] | None = None,
    window_starts: Sequence[int] | None = None,
    on_frame: Callable[[int, int], None] | None = None,
    one_shot: bool = False,
    threads: int | None = None,
) -> ConsistencyReport:
    """Measure how well the frames of a clip hold together.

    Args:
        frames: RGB, uint8 or float in [0, 1]: NumPy `f h w c` or torch `f c h w`, the same answer for each.
            Give the frames that go to the encoder.
        fps: frames per second, above 0.
        metrics: names from `ALL_METRICS`, and lines such as those of `optional_metrics`; None measures all.
            Motion, sharpness and mean luma come along with measures of flicker and morphing.
        flow: None or "dis" (OpenCV DIS at full resolution), "farneback", a `FlowMethod`, or the known flow
            as two float arrays (forward, backward), each num_frames − 1 × h × w × 2 in pixels.
        window_starts: first frames of the context windows that made the clip, if known; a seam is looked
            for at each.
        on_frame: told after each frame how many are measured, and of how many.
        one_shot: the clip is known to have no cut: its worst jump is scored.
        threads: pairs of frames that are looked at at the same time, the same numbers for any; None takes
            the cores that this process may use.

    Raises:
        ValueError: an argument breaks one of the rules above.

    >>> frames = np.zeros((4, 64, 64, 3), np.uint8)
    >>> frames[1::2] += 20
    >>> measure(frames, fps=8, metrics=["raw_flicker"]).values["raw_flicker"].told
    '0.07843 of full range'
    """
    clip = as_uint8_frames(frames)
    exact_fps = as_fps(fps)
    chosen, method = choose_metrics(metrics), choose_flow(flow)
    starts = as_window_starts(window_starts, len(clip))
    held = HeldFrames()
    for frame in clip:
        held.add(frame)
    measurement = Measurement(
        chosen, method, starts, held=held.numbers(), one_shot=one_shot, threads=threads or idle_cores()
    )
    for index, frame in enumerate(clip):
        measurement.add(index, float(index / exact_fps), frame)
        if on_frame is not None:
            on_frame(index + 1, len(clip))
    return measurement.report(exact_fps)
