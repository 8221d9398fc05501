"""Known distortions to put on clean clips: each is meant to raise one measure, strictly with its strength.

All are deterministic functions of frames and strength, so a ladder of strengths shares its random numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

Frames: TypeAlias = UInt8[np.ndarray, "f h w 3"]


def _to_levels(levels: Float64[np.ndarray, "f h w 3"]) -> Frames:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _uneven_signs(num_frames: int) -> Float64[np.ndarray, "frames"]:
    """Alternating numbers of size 0.6 to 1.4: flicker without an exact rhythm."""
    generator = np.random.default_rng(5)
    return np.where(np.arange(num_frames) % 2, 1, -1) * generator.uniform(0.6, 1.4, num_frames)


def brightness_flicker(frames: Frames, strength: float | int) -> Frames:
    """Whole frames brighter and darker in turn by about `strength` levels."""
    return _to_levels(frames + strength * _uneven_signs(len(frames))[:, None, None, None])


def local_flicker(frames: Frames, strength: float | int) -> Frames:
    """The same in the upper left quarter of the picture only."""
    height, width = frames.shape[1:3]
    levels = frames.astype(np.float64)
    levels[:, : height // 2, : width // 2] += strength * _uneven_signs(len(frames))[:, None, None, None]
    return _to_levels(levels)


def frame_noise(frames: Frames, strength: float | int) -> Frames:
    """Gaussian noise of σ = `strength` levels, new in each frame, pixel and channel."""
    return _to_levels(frames + strength * np.random.default_rng(6).standard_normal(frames.shape))


def texture_boiling(frames: Frames, strength: float | int) -> Frames:
    """Small patches of about 5 pixels pushed around by `strength` pixels RMS, anew in each frame."""
    generator = np.random.default_rng(7)
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    boiled = []
    for frame in frames:
        push = cv2.GaussianBlur(generator.standard_normal((height, width, 2)).astype(np.float32), (0, 0), 2.5)
        push *= strength / float(np.sqrt(np.mean(push**2)))
        where = (x + push[..., 0], y + push[..., 1])
        boiled.append(cv2.remap(frame, *where, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101))
    return np.stack(boiled)


def colour_jitter(frames: Frames, strength: float | int) -> Frames:
    """Red and green pushed against each other by about `strength` levels in turn, luma left as it is."""
    tint = np.array([1.0, -0.299 / 0.587, 0.0])
    return _to_levels(frames + strength * _uneven_signs(len(frames))[:, None, None, None] * tint)


def stutter(frames: Frames, strength: float | int) -> Frames:
    """So many frames, at most half of them, replaced by the one before: the picture halts and jumps."""
    order = np.arange(len(frames))
    places = order[1::2]
    order[places[np.linspace(0, len(places) - 1, round(strength)).round().astype(int)]] -= 1
    return frames[order]


def dropped_frames(frames: Frames, strength: float | int) -> UInt8[np.ndarray, "kept h w 3"]:
    """So many frames left out, spread over the clip: motion jumps ahead."""
    dropped = np.linspace(2, len(frames) - 3, round(strength)).astype(int)
    return np.delete(frames, dropped, axis=0)


WINDOW_STARTS = (4, 8, 12)
"""Where `seams` puts the joints between windows."""


def seams(frames: Frames, strength: float | int) -> Frames:
    """Each window of 4 frames has its own brightness and tint, about `strength` levels from the next."""
    offsets = np.array([[0.5, 0.4, 0.6], [-0.5, -0.6, -0.4]])
    window = np.searchsorted(WINDOW_STARTS, np.arange(len(frames)), side="right")
    return _to_levels(frames + strength * offsets[window % 2][:, None, None, :])


def slow_drift(frames: Frames, strength: float | int) -> Frames:
    """Colours grow warmer and brighter, by `strength` levels of red from the first frame to the last."""
    ramp = np.linspace(-0.5, 0.5, len(frames))[:, None, None, None]
    return _to_levels(frames + strength * ramp * np.array([1.0, 0.4, -0.6]))


@dataclass(frozen=True)
class Distortion:
    """One ladder.

    Attributes:
        apply: function of frames and strength.
        strengths: at least 8 rungs, in the unit of the function.
        metric: the metric meant for it.
        detail: the detail of that metric that is meant, or "" for its value.
        is_flicker: whether the headline must see it. Doubled and dropped frames are faults of motion and a
            steady fade is a drift: by its definition flicker gives 0 for these.
        num_frames: length of the clean clip that the rungs are made for.
    """

    apply: Callable[[Frames, float | int], Frames]
    strengths: tuple[float | int, ...]
    metric: str
    detail: str = ""
    is_flicker: bool = True
    num_frames: int = 16


_STRONG = (8, 10, 12, 16, 20, 24, 28, 32)
_WEAK = (3, 4, 5, 6, 8, 12, 16, 24)
_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)

DISTORTIONS: dict[str, Distortion] = {
    "brightness flicker": Distortion(brightness_flicker, (2, 3, 4, 6, 8, 12, 16, 24), "luma_flicker"),
    "local flicker": Distortion(local_flicker, _STRONG, "luma_flicker", "max_cell"),
    "frame noise": Distortion(frame_noise, _WEAK, "flicker"),
    "texture boiling": Distortion(texture_boiling, (1, 1.2, 1.4, 1.7, 2, 2.4, 2.8, 3.4), "flicker"),
    "colour jitter": Distortion(colour_jitter, _WEAK, "flicker"),
    "stutter": Distortion(stutter, _COUNTS, "duplicate_pairs", is_flicker=False),
    "dropped frames": Distortion(dropped_frames, _COUNTS, "flow_jitter", "uneven", False, num_frames=48),
    "seams": Distortion(seams, _STRONG, "seam_excess"),
    "slow drift": Distortion(slow_drift, (24, 30, 36, 42, 48, 54, 60, 66), "drift", is_flicker=False),
}
