"""Where an object is, how large and how turned, at every frame: the motions of the procedural world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_diffusion.data.scene import SIZES, SceneObject

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
# Farthest point of the shape from its centre, over the radius of the circle of equal area.
REACH = {"circle": 1.0, "square": 1.2534, "triangle": 1.5551, "star": 1.4621}


@dataclass(frozen=True)
class Trajectory:
    """Per-frame pose of one object. Lengths are shares of the picture's shorter side; y points down.

    Attributes:
        centre: `(f, 2)` x and y of the centre, 0 to width/side and height/side.
        radius: `(f,)` radius of the circle of equal area.
        angle: `(f,)` clockwise turn in radians; 0 is upright.
    """

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def sample_trajectory(
    thing: SceneObject,
    num_frames: int,
    rng: np.random.Generator,
    extent: tuple[float, float] = (1.0, 1.0),
    centre_out: bool = False,
) -> Trajectory:
    """Draw one way of showing `thing` in `num_frames` frames.

    The clip's whole length is one motion whatever the number of frames: a clip of 8 frames shows every second
    pose of one of
    15, not its first half.

    Args:
        thing: What moves and how.
        num_frames: Length of the clip, at least 1.
        rng: The only source of chance.
        extent: Width and height of the picture in shares of its shorter side.
        centre_out: Start straight moves near the centre and move outward. Position alone then tells
            direction, which is what
            lets a small network learn directions at all.
    """
    time = np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)
    radius = np.full(num_frames, SIZES[thing.size] * rng.uniform(0.95, 1.05))
    angle = np.zeros(num_frames)
    if thing.motion in {"growing", "shrinking"}:
        factor = 1.0 + 0.65 * (time if thing.motion == "growing" else 1.0 - time)
        radius = radius * factor / 1.3
    if thing.motion == "rotating":
        # Half the shape's own symmetry per clip would look like standing still backwards; 0.9 of a quarter
        # turn does not.
        angle = 0.45 * np.pi * time + rng.uniform(0, 0.25)
    reach = REACH[thing.shape] if thing.motion == "rotating" else 1.0 + 0.6 * (REACH[thing.shape] - 1.0)
    margin = float(radius.max()) * reach + 0.01
    low, high = np.full(2, margin), np.asarray(extent) - margin
    room = np.maximum(high - low, 0.0)
    middle = np.asarray(extent) / 2
    start = low + room * rng.random(2)
    centre = np.repeat(start[None], num_frames, axis=0)
    if thing.motion in DIRECTIONS:
        direction = np.asarray(DIRECTIONS[thing.motion])
        axis = int(np.argmax(np.abs(direction)))
        distance = rng.uniform(0.34, 0.44)
        if centre_out:
            start = np.clip(middle + rng.uniform(-0.06, 0.06, 2), low, high)
            available = (high - start)[axis] if direction[axis] > 0 else (start - low)[axis]
            distance = min(distance, float(available))
        else:
            distance = min(distance, float(room[axis]))
            first = rng.uniform(0.0, float(room[axis]) - distance)
            start[axis] = low[axis] + first if direction[axis] > 0 else high[axis] - first
        centre = start[None] + direction[None] * distance * time[:, None]
    elif thing.motion == "bouncing":
        height = min(float(room[1]), 0.36)
        floor = high[1] - rng.uniform(0.0, float(room[1]) - height)
        centre = np.stack(
            [np.full(num_frames, start[0]), floor - height * np.abs(np.cos(2 * np.pi * time))], axis=1
        )
    elif thing.motion == "circling":
        orbit = min(0.18, float(room.min()) / 2)
        hub = np.clip(start, low + orbit, high - orbit)
        phase = 2 * np.pi * time - np.pi / 2
        centre = hub[None] + orbit * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    elif thing.motion == "zigzag":
        height = min(float(room[1]), 0.3)
        top = low[1] + rng.uniform(0.0, float(room[1]) - height)
        across = low[0] + rng.uniform(0.0, 0.05) * room[0] + 0.95 * room[0] * time
        legs = np.abs((3 * time + 1) % 2 - 1)  # 1, 0, 1, 0: down to up, three times along a straight leg
        centre = np.stack([across, top + height * legs], axis=1)
    return Trajectory(centre.astype(np.float32), radius.astype(np.float32), angle.astype(np.float32))
