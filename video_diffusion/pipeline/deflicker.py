"""Finished frames averaged with their neighbours along the flow: what flickers in place evens out."""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from video_diffusion.metrics.flow import FlowMethod, Levels, Mask, choose_flow
from video_diffusion.metrics.views import Frame, Pair

Frames = UInt8[np.ndarray, "f h w 3"]

TRUSTED, DISTRUSTED = 12.0, 36.0
"""Change along the flow, in levels, up to which a neighbour counts in full, and from which on not at all."""
SURROUNDINGS = 1.0
"""Standard deviation in pixels of what that change is averaged over: noise alone must not decide."""


def deflicker(frames: Frames, strength: float, flow: FlowMethod | None = None) -> Frames:
    """Average each frame with both neighbours, fetched along the flow that flicker is measured along.

    I' = (I + Σ sₖ wₖ) / (1 + Σ sₖ), with wₖ a fetched neighbour and sₖ the strength where its flow passes the
    forward-backward check and it looks like the frame, else 0: no ghosts, and a cut stays a cut. Noise of
    variance σ² that frames do not share keeps (1 + 2 s²) / (1 + 2 s)² of it: a third at strength 1.

    Args:
        frames: Of the whole clip.
        strength: 0 leaves the frames as they are, 1 counts neighbours as much as the frame.
        flow: None is DIS, as in the metrics.
    """
    if strength == 0 or len(frames) < 2:
        return frames
    return np.stack(list(_averaged(frames, strength, choose_flow(flow))))


def _averaged(frames: Frames, strength: float, flow: FlowMethod) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    before: Pair | None = None
    frame = Frame(0, 0.0, frames[0])
    for index in range(1, len(frames) + 1):
        after = None
        if index < len(frames):
            after = Pair(frame, Frame(index, float(index), frames[index]), flow)
        total, weight = frame.levels.copy(), np.ones(frame.levels.shape[:2], np.float32)
        for fetched, valid in _neighbours(before, after):
            trust = np.float32(strength) * valid * _likeness(fetched, frame.levels)
            total += trust[..., None] * fetched
            weight += trust
        yield np.rint(total / weight[..., None]).astype(np.uint8)
        if after is not None:
            before, frame = after, after.second


def _neighbours(before: Pair | None, after: Pair | None) -> Iterator[tuple[Levels, Mask]]:
    """The frames beside the one that two pairs share, fetched onto it, and where that can be believed."""
    if before is not None:
        yield before.first_on_second, before.backward_valid
    if after is not None:
        yield after.second_on_first, after.forward_valid


def _likeness(fetched: Levels, levels: Levels) -> Float32[np.ndarray, "h w"]:
    """1 where a fetched frame looks like another, 0 where it does not, in between in between."""
    change = cv2.GaussianBlur(np.abs(fetched - levels).mean(axis=2), (0, 0), SURROUNDINGS)
    likeness: Float32[np.ndarray, "h w"] = np.clip((DISTRUSTED - change) / (DISTRUSTED - TRUSTED), 0, 1)
    return likeness.astype(np.float32)
