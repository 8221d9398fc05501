"""Small still pictures of a clip for a page: its first frame, and one line of pixels through time."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from video_diffusion.io import iter_frames

MAX_POSTER = 192  # pixels of the longer side
MAX_SLICE_FRAMES = 256
LOSSLESS_UP_TO = 20_000  # pixels: small pictures are shown enlarged, where artefacts show


@dataclass(frozen=True)
class SliceLine:
    """Which line of pixels a slice follows: a row shows motion to the sides, a column up and down.

    Attributes:
        place: 0 (top or left) to 1 (bottom or right).
    """

    direction: Literal["row", "column"]
    place: float


@dataclass(frozen=True)
class ClipPictures:
    """Pictures as `data:` addresses.

    Attributes:
        poster: the first frame.
        slice_picture: time runs to the right, one pixel for each frame shown; the line runs down.
        line: that the slice follows.
    """

    poster: str
    slice_picture: str
    line: SliceLine


def draw_clip_pictures(path: Path, num_frames: int, line: SliceLine | None = None) -> ClipPictures:
    """Reads a clip and draws its pictures; in long clips only every so many frames are looked at.

    Args:
        path: of the clip.
        num_frames: that it is said to have.
        line: that the slice follows, so that clips can be held against each other; None takes the one where
            most happens, along the way in which most moves.

    Raises:
        VideoReadError: it cannot be read.
    """
    every = max(1, math.ceil(num_frames / MAX_SLICE_FRAMES))
    frames = np.stack(
        [_reduced(frame.pixels) for index, frame in enumerate(iter_frames(path)) if index % every == 0]
    )
    line = line or _liveliest_line(frames)
    _, height, width, _ = frames.shape
    if line.direction == "row":
        through_time = frames[:, round(line.place * (height - 1))]
    else:
        through_time = frames[:, :, round(line.place * (width - 1))]
    return ClipPictures(_data_url(frames[0]), _data_url(through_time.transpose(1, 0, 2)), line)


def _liveliest_line(frames: UInt8[np.ndarray, "f h w 3"]) -> SliceLine:
    luma = frames.mean(axis=3)
    across, down = luma.mean(axis=1), luma.mean(axis=2)  # what moves sideways stays visible in `across`
    change = luma.std(axis=0)
    if across.var(axis=0).sum() * luma.shape[1] >= down.var(axis=0).sum() * luma.shape[2]:
        lines, direction = change.sum(axis=1), "row"
    else:
        lines, direction = change.sum(axis=0), "column"
    place = int(lines.argmax()) if lines.max() > 0 else len(lines) // 2
    return SliceLine("row" if direction == "row" else "column", place / max(1, len(lines) - 1))


def _reduced(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width, _ = pixels.shape
    shrink = MAX_POSTER / max(height, width)
    if shrink >= 1:
        return pixels
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _data_url(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    lossless = pixels.shape[0] * pixels.shape[1] <= LOSSLESS_UP_TO
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "WEBP", lossless=lossless, quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
