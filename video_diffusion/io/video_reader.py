"""Clips from video files, animations, folders of images and single images: checked first, then decoded.

What a file declares is never trusted, nothing it names is opened, and what is too large is refused before it
costs memory.
"""

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from video_diffusion.io.container_reader import open_container
from video_diffusion.io.frame_source import Frame, FrameSource, ReadLimits, VideoReadError
from video_diffusion.io.image_reader import IMAGE_SUFFIXES, open_image_file, open_image_folder

__all__ = [
    "Frame", "FrameSource", "ReadLimits", "Video", "VideoReadError", "iter_frames", "open_video", "read_tags",
    "read_video",
]  # fmt: skip


@dataclass(frozen=True)
class Video:
    """A whole clip in memory.

    Attributes:
        frames: RGB, upright.
        timestamps: seconds of each frame from the first one; variable rates stay variable.
        fps: the average rate; None for a single picture.
        metadata: the file's own tags, untrusted.
        notes: one line for each thing applied, ignored or assumed while reading.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    timestamps: tuple[Fraction, ...]
    fps: Fraction | None
    metadata: dict[str, str]
    notes: tuple[str, ...]


def open_video(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    limits: ReadLimits | None = None,
    allow_truncated: bool = False,
    suffix: str | None = None,
    near: Fraction | None = None,
) -> AbstractContextManager[FrameSource]:
    """Opens a clip for streaming: a context manager whose value has the `frames` to iterate over.

    Args:
        path: a video file, an image, or a folder of images.
        fps: of a folder of images; None assumes 8 and notes it.
        limits: what is refused.
        allow_truncated: a clip that ends too early gives the frames it has, and a note.
        suffix: how to read a file whose own name does not say it.
        near: seconds; after its first frame a video file goes on from the key frame before this time.

    Raises:
        VideoReadError: on entering or while reading, one line that names the file.
    """
    path, limits = Path(path), limits or ReadLimits()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise VideoReadError(f"{path}: {reason}") from None
    if stat.S_ISDIR(mode):
        return open_image_folder(path, limits, fps)
    if not stat.S_ISREG(mode):
        raise VideoReadError(f"{path}: is not a regular file; give a video, an image or a folder of images")
    if (suffix if suffix is not None else path.suffix).lower() in IMAGE_SUFFIXES:
        return open_image_file(path, limits)
    return open_container(path, limits, allow_truncated, near)


def iter_frames(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    limits: ReadLimits | None = None,
    allow_truncated: bool = False,
    suffix: str | None = None,
) -> Iterator[Frame]:
    """Frames of a clip one at a time, in constant memory; arguments and errors as `open_video`."""
    with open_video(path, fps=fps, limits=limits, allow_truncated=allow_truncated, suffix=suffix) as source:
        yield from source.frames


def read_video(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    limits: ReadLimits | None = None,
    allow_truncated: bool = False,
) -> Video:
    """A whole clip; arguments as `open_video`.

    Raises:
        VideoReadError: as `open_video`, and a clip larger than `limits.max_bytes`.
    """
    limits = limits or ReadLimits()
    frames: list[UInt8[np.ndarray, "h w 3"]] = []
    times: list[Fraction] = []
    with open_video(path, fps=fps, limits=limits, allow_truncated=allow_truncated) as source:
        room = limits.max_bytes // (3 * source.width * source.height)
        for frame in source.frames:
            if len(frames) >= room:
                raise VideoReadError(
                    f"{path}: needs more than {limits.max_bytes} bytes of memory; cut it first"
                )
            frames.append(frame.pixels)
            times.append(frame.time)
        if len(times) > 2 and _is_variable(times):
            source.note("variable frame rate; timestamps are the file's own")
        return Video(np.stack(frames), tuple(times), source.fps, source.tags, tuple(source.notes))


def read_tags(path: Path | str) -> dict[str, str]:
    """The metadata of a video file, without decoding it; empty for images and folders.

    Raises:
        VideoReadError: not a plain video file.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return {}
    with open_video(path) as source:
        return source.tags


def _is_variable(times: list[Fraction]) -> bool:
    """Whether the steps differ by more than a tenth and by more than the rounding of a container's clock."""
    steps = [later - earlier for earlier, later in pairwise(times)]
    return max(steps) - min(steps) > max(Fraction(11, 1000), min(steps) / 10)
