"""What every reader gives: frames one at a time, what is known of the clip, and what was odd about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


class VideoReadError(ValueError):
    """Not a video, damaged, or beyond the limits; the message is one line that starts with the path."""


@dataclass(frozen=True)
class ReadLimits:
    """What is refused before it is decoded, so that a hostile file costs neither memory nor hours.

    Attributes:
        max_side: pixels of either side.
        max_pixels: of one frame.
        max_frames: of one clip.
        max_seconds: as the file declares them.
        max_bytes: of all frames together, when a whole clip is read into memory.
    """

    max_side: int = 8192
    max_pixels: int = 8192 * 4320
    max_frames: int = 100_000
    max_seconds: int = 4 * 3600
    max_bytes: int = 4 * 2**30

    def check_size(self, where: object, width: int, height: int) -> None:
        """Refuses a frame size.

        Raises:
            VideoReadError: nothing to show, or too large.
        """
        if width < 1 or height < 1:
            raise VideoReadError(f"{where}: has a size of {width}x{height}; not a picture")
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise VideoReadError(
                f"{where}: is {width}x{height}, beyond {self.max_side} pixels a side "
                f"or {self.max_pixels} in all; make it smaller first"
            )


@dataclass(frozen=True)
class Frame:
    """One picture of a clip: RGB, upright, and when it is shown (seconds from the first frame's time)."""

    index: int
    time: Fraction
    pixels: UInt8[np.ndarray, "h w 3"]


@dataclass
class FrameSource:
    """An open clip. `notes` is complete only after the frames have been read.

    Attributes:
        fps: the average rate the file declares; None for pictures.
        width, height: upright, as the frames will be.
        codec, pixel_format: as stored.
        declared_frames, declared_seconds: as the file says; None where it does not. Never trusted.
        tags: the file's own metadata, untrusted.
        notes: one line for each thing that was applied, ignored or assumed.
    """

    path: Path
    fps: Fraction | None
    width: int
    height: int
    codec: str
    pixel_format: str
    frames: Iterator[Frame]
    declared_frames: int | None = None
    declared_seconds: Fraction | None = None
    tags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds a remark once."""
        if text not in self.notes:
            self.notes.append(text)


def begin(source: FrameSource, frames: Iterator[Frame]) -> FrameSource:
    """Reads the first frame, so that what cannot be read is known on opening, and so is the upright size.

    Raises:
        VideoReadError: from reading it.
    """
    first = next(frames)
    source.height, source.width = first.pixels.shape[:2]
    source.frames = chain([first], frames)
    return source
