"""A video or picture that a clip starts from: read, cut to length and size, named by its content."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from video_diffusion.io.video_reader import iter_frames


def read_input_video(
    path: Path | str, num_frames: int, height: int, width: int, setting: str = "init_video"
) -> UInt8[np.ndarray, "f h w 3"]:
    """Read the first frames of a clip, at the size asked for.

    Args:
        path: A video file, an animation or a folder of images.
        num_frames: As many are read; their own rate does not matter.
        height: To scale to.
        width: To scale to. What sticks out beyond this shape is cut off evenly, with a warning.
        setting: That names it, for messages.

    Raises:
        VideoReadError: It cannot be read.
        ValueError: It has fewer frames.
    """
    frames = []
    for frame in iter_frames(path):
        frames.append(fit(frame.pixels, height, width))
        if len(frames) == 1:
            _warn_of_cut(f"{setting} {path}", frame.pixels.shape, height, width)
        if len(frames) == num_frames:
            return np.stack(frames)
    raise ValueError(
        f"{setting} {path} has {len(frames)} frames, but num_frames is {num_frames}; "
        f"set num_frames to {len(frames)} or less"
    )


def read_input_image(
    path: Path | str, height: int, width: int, setting: str = "init_image"
) -> UInt8[np.ndarray, "h w 3"]:
    """Read one picture, or the first frame of a clip, at the size asked for; see `read_input_video`.

    Raises:
        VideoReadError: It cannot be read.
    """
    pixels = next(iter(iter_frames(path))).pixels
    _warn_of_cut(f"{setting} {path}", pixels.shape, height, width)
    return fit(pixels, height, width)


def fit(pixels: UInt8[np.ndarray, "h_in w_in 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scale a picture until it covers the size, and cut evenly what sticks out; pixels stay square."""
    rows, columns = pixels.shape[:2]
    scale = max(height / rows, width / columns)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    if size != (columns, rows):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=method), dtype=np.uint8)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _warn_of_cut(what: str, shape: tuple[int, ...], height: int, width: int) -> None:
    rows, columns = shape[:2]
    kept = min(height / rows, width / columns) / max(height / rows, width / columns)
    if kept < 0.99:
        warnings.warn(
            f"{what} is {columns}x{rows}; {100 * (1 - kept):.0f} % of it is cut off to fit {width}x{height}",
            stacklevel=4,
        )
