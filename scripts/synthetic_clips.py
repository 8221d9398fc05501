"""Clips whose motion is known exactly, and known distortions to put on them, for tests and figures.

Nothing is resampled: every frame evaluates a formula at the positions that its pixels see, so the clips are
clean to within the rounding to 8 bits, and the true flow is known at every pixel. Each distortion is meant to
raise one measure, strictly with its strength; all are deterministic functions of frames and strength, so a
ladder of strengths shares its random numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

Motion: TypeAlias = Literal["pan", "rotation", "zoom"]
Positions: TypeAlias = Float64[np.ndarray, "... 2"]
Colours: TypeAlias = Float64[np.ndarray, "... 3"]


@dataclass(frozen=True, eq=False)
class SyntheticClip:
    """Frames with their true motion.

    Attributes:
        frames: uint8 `f h w c`.
        forward: true flow from each frame to the next on its own grid, in pixels.
        backward: true flow from each next frame back.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    forward: Float32[np.ndarray, "pairs h w 2"]
    backward: Float32[np.ndarray, "pairs h w 2"]


def waves(positions: Positions) -> Colours:
    """Sixty plane waves 7 to 28 pixels long in random directions, other phases in each channel: no edges."""
    generator = np.random.default_rng(1)
    angle, length = generator.uniform(0, 2 * np.pi, 60), np.exp(generator.uniform(np.log(7), np.log(28), 60))
    frequency = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])
    shade = generator.uniform(0, 2 * np.pi, (60, 1)) + generator.normal(0, 0.7, (60, 3))
    phase = positions @ frequency
    colours = np.cos(phase) @ np.cos(shade) - np.sin(phase) @ np.sin(shade)
    shaded: Colours = 128 + 32 * np.tanh(colours / np.sqrt(60)) * 2
    return shaded


def _hash(*integers: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """A number in 0…1 that looks random but depends on nothing else than the whole numbers given."""
    mixed = sum(integer * factor for integer, factor in zip(integers, (127.1, 311.7, 74.7), strict=False))
    return np.modf(np.abs(np.sin(mixed) * 43758.5453))[0]


def _edge(distance: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Soft step from 0 outside to 1 inside, about two pixels wide as a camera would give it."""
    return 1 / (1 + np.exp(-np.clip(distance * 2.5, -30, 30)))


def bricks(positions: Positions) -> Colours:
    """A wall of bricks of 22 × 11 pixels, each in its own colour: straight edges, repeated structure."""
    row = np.floor(positions[..., 1] / 11)
    across = positions[..., 0] + 11 * np.mod(row, 2)
    column = np.floor(across / 22)
    inside_x = 11 - np.abs(across - 22 * column - 11)
    inside_y = 5.5 - np.abs(positions[..., 1] - 11 * row - 5.5)
    brick = _edge(np.minimum(inside_x, inside_y) - 1.5)[..., np.newaxis]
    shade = np.stack([_hash(row, column, np.full_like(row, channel)) for channel in range(3)], axis=-1)
    colours: Colours = (1 - brick) * 70 + brick * (110 + 90 * shade)
    return colours


def pebbles(positions: Positions) -> Colours:
    """Discs of 5 to 9 pixels' radius lying over one another, each in its own colour: curved edges."""
    cell = np.floor(positions / 12)
    colours = np.full((*positions.shape[:-1], 3), 90.0)
    for step_x in (-1.0, 0.0, 1.0):
        for step_y in (-1.0, 0.0, 1.0):
            x, y = cell[..., 0] + step_x, cell[..., 1] + step_y
            centre_x, centre_y = 12 * (x + _hash(x, y)), 12 * (y + _hash(y, x, x))
            distance = np.hypot(positions[..., 0] - centre_x, positions[..., 1] - centre_y)
            disc = _edge(5 + 4 * _hash(x + 7, y) - distance)[..., np.newaxis]
            shade = np.stack([_hash(x, y, np.full_like(x, channel + 3.0)) for channel in range(3)], axis=-1)
            colours = (1 - disc) * colours + disc * (50 + 150 * shade)
    return colours


TEXTURES: dict[str, Callable[[Positions], Colours]] = {"waves": waves, "bricks": bricks, "pebbles": pebbles}


def _camera_step(motion: Motion, speed: float | int, corner: float) -> Float64[np.ndarray, "2 3"]:
    """Where a point at (x, y, 1) from the centre goes in one frame; `speed` is that of the fastest point."""
    if motion == "pan":
        return np.array([[1, 0, -speed * 0.8], [0, 1, speed * 0.6]])
    if motion == "rotation":
        angle = 2 * np.arcsin(speed / (2 * corner))
        return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    return np.array([[1 + speed / corner, 0, 0], [0, 1 + speed / corner, 0]])


def clean_clip(
    texture: str,
    motion: Motion,
    speed: float | int,
    num_frames: int = 16,
    height: int = 96,
    width: int = 128,
) -> SyntheticClip:
    """Render a texture seen by a camera that pans, turns or zooms in at constant speed.

    Args:
        texture: a key of `TEXTURES`.
        motion: pan along the direction (−0.8, 0.6), rotation about the centre, or zoom towards it.
        speed: of the fastest point of the picture, in pixels per frame; 0 stands still.
        num_frames: at least 1.
        height: in pixels.
        width: in pixels.
    """
    y, x = np.mgrid[:height, :width].astype(np.float64)
    points = np.stack([x - (width - 1) / 2, y - (height - 1) / 2, np.ones_like(x)], axis=-1)
    step = np.vstack([_camera_step(motion, speed, np.hypot(*points[0, 0, :2])), [0, 0, 1]])
    back = np.linalg.inv(step)
    seen, frames = np.eye(3), []
    for _ in range(num_frames):
        positions = (points @ seen.T)[..., :2] + (3000, 2000)
        frames.append(np.rint(np.clip(TEXTURES[texture](positions), 0, 255)).astype(np.uint8))
        seen = seen @ back
    flows = [((points @ matrix.T) - points)[..., :2].astype(np.float32) for matrix in (step, back)]
    pairs = (num_frames - 1, height, width, 2)
    return SyntheticClip(np.stack(frames), np.broadcast_to(flows[0], pairs), np.broadcast_to(flows[1], pairs))


def moving_square(
    outline: Sequence[float],
    size: int = 128,
    speed: float | int = 2,
    turn: float | int = 0,
    growth: float | int = 0,
) -> UInt8[np.ndarray, "f h w 3"]:
    """A flat square on a flat ground that moves steadily, its four sides bulged in each frame.

    Args:
        outline: one number for each frame: how far the middle of the left and right sides stands out, and
            that of the others in, in pixels of an image 256 high.
        size: height and width in pixels.
        speed: to the right, in px per frame at 256.
        turn: radians per frame.
        growth: share of its size per frame.
    """
    y, x = (np.mgrid[:size, :size].astype(np.float64) - (size - 1) / 2) * (256 / size)
    frames = []
    for step, bulge in enumerate(outline):
        angle, side = step * turn, 50 * (1 + step * growth)
        across = x - speed * (step - len(outline) / 2)
        u = np.cos(angle) * across + np.sin(angle) * y
        v = np.cos(angle) * y - np.sin(angle) * across
        bend_u, bend_v = (bulge * np.clip(1 - (along / side) ** 2, 0, None) for along in (v, u))
        inside = np.minimum(side + bend_u - np.abs(u), side - bend_v - np.abs(v)) * size / 256
        share = _edge(inside)[..., np.newaxis]
        frames.append(np.rint((1 - share) * [60, 80, 110] + share * [200, 90, 60]).astype(np.uint8))
    return np.stack(frames)


Frames: TypeAlias = UInt8[np.ndarray, "f h w 3"]


def _to_levels(levels: Float64[np.ndarray, "f h w 3"]) -> Frames:
    frames: Frames = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return frames


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
