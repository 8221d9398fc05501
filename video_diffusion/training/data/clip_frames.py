"""Frames of a file at given times, brought to a size."""

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from video_diffusion.io import VideoReadError, open_video
from video_diffusion.training.data.clip_plan import ON_TIME

WORTH_A_JUMP = 5.0  # seconds; earlier frames are reached by reading on


def frames_at(path: Path, times: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frame on show at each of some times, in their order; decoding stops after the last.

    Args:
        path: of a video or picture.
        times: seconds from the first frame, in any order; a frame up to `ON_TIME` late is on show already.

    Raises:
        VideoReadError: not a video, or damaged before the last of the times.
    """
    wanted = sorted(set(times))
    found = None
    if wanted[0] > WORTH_A_JUMP:
        with suppress(VideoReadError):  # then it is read from its beginning
            found = _frames(path, wanted, Fraction(wanted[0]))
    found = found or _frames(path, wanted, None)
    assert found is not None, "only a jump can miss"
    return [found[time] for time in times]


def _frames(
    path: Path, wanted: list[float], near: Fraction | None
) -> dict[float, UInt8[np.ndarray, "h w 3"]] | None:
    """The frame at each time; None if a jump to `near` went too far or back to the beginning."""
    found: dict[float, UInt8[np.ndarray, "h w 3"]] = {}
    # `data check` has decided what may be cut off; the file is the one that it saw.
    with open_video(path, allow_truncated=True, near=near) as source:
        shown = None
        for number, frame in enumerate(source.frames):
            if near is not None and number == 1 and not 0 < float(frame.time) <= wanted[0] + ON_TIME:
                return None
            while shown is not None and len(found) < len(wanted):
                time = wanted[len(found)]
                if float(frame.time) <= time + ON_TIME:
                    break
                found[time] = shown
            if len(found) == len(wanted):
                break
            shown = frame.pixels
        assert shown is not None, "a source has a first frame"
        if near is not None and number == 0:
            return None
        for time in wanted[len(found) :]:
            found[time] = shown
    return found


def fit(frame: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crops a frame about its centre to the aspect of the size and resizes it, bicubic; nothing is stretched.

    Pillow averages over all the pixels that fall into a smaller one. OpenCV could too, but it hangs in
    processes that were forked after it had started its threads, and readers of training clips are forked.
    """
    rows, columns = frame.shape[:2]
    if (columns, rows) == (width, height):
        return frame
    scale = max(width / columns, height / rows)
    left, top = (columns - width / scale) / 2, (rows - height / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))
