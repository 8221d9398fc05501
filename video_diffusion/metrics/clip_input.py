"""The forms in which callers may give frames, brought to the one that every metric sees: uint8 `f h w c`."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

HALF_A_LEVEL = 0.5 / 255


def as_uint8_frames(frames: Any) -> UInt8[np.ndarray, "f h w 3"]:
    """Return RGB frames as uint8 `f h w c`, rounded and not truncated, as the encoder gets them.

    Args:
        frames: uint8 or float in [0, 1]; a NumPy array (or a list of frames) `f h w c`, or a torch tensor
            `f c h w` on any device. Floats may overstep [0, 1] by half a level.

    Raises:
        ValueError: wrong number of axes or channels, other types, numbers outside the range, NaN, or no
            frame.
    """
    array = _to_numpy(frames)
    if array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(
            "frames must have the axes f h w c with 3 colour channels (torch: f c h w); given shape "
            f"{tuple(np.shape(frames))}"
        )
    if 0 in array.shape:
        raise ValueError(
            f"frames must hold at least one frame and one pixel; given shape {tuple(np.shape(frames))}"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"frames must be uint8 or floats in [0, 1]; given {array.dtype}; convert them first")
    low, high = float(array.min()), float(array.max())
    if not (low >= -HALF_A_LEVEL and high <= 1 + HALF_A_LEVEL):
        raise ValueError(
            f"frames must be floats in [0, 1]; given {low:g} to {high:g}; divide 8-bit levels by 255"
        )
    return np.ascontiguousarray(np.clip(np.rint(array * 255), 0, 255).astype(np.uint8))


def _to_numpy(frames: Any) -> np.ndarray:
    if hasattr(frames, "detach"):  # a torch tensor, known by its manners: metrics do not import torch
        tensor = frames.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        array: np.ndarray = tensor.numpy()
        return np.moveaxis(array, 1, -1) if array.ndim == 4 else array
    return np.asarray(frames)


def as_fps(fps: Fraction | float | int) -> Fraction:
    """Return frames per second as an exact fraction.

    Raises:
        ValueError: not a finite number above 0.
    """
    try:
        exact = Fraction(fps)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        exact = Fraction(0)
    if exact <= 0:
        raise ValueError(f"fps must be a number above 0; given {fps!r}")
    return exact


def as_window_starts(window_starts: Sequence[int] | None, num_frames: int | None = None) -> tuple[int, ...]:
    """Return the first frames of context windows in order, once each; not frame 0, where no seam can be.

    Args:
        window_starts: None means that no windows are known.
        num_frames: of the clip; None while that is not known.

    Raises:
        ValueError: a start outside the clip.
    """
    starts = sorted(set(window_starts or ()))
    if starts and (starts[0] < 0 or (num_frames is not None and starts[-1] >= num_frames)):
        last = "" if num_frames is None else num_frames - 1
        raise ValueError(f"window_starts must lie in 0…{last}, the frames of the clip; given {starts}")
    return tuple(start for start in starts if start > 0)
