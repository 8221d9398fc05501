"""Frames of a file at given times, brought to a size."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from video_diffusion.io import open_video
from video_diffusion.training.data.clip_plan import ON_TIME


def frames_at(path: Path, times: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frame on show at each of some times, in their order; decoding stops after the last.

    Args:
        path: of a video or picture.
        times: seconds from the first frame, in any order; a frame up to `ON_TIME` late is on show already.

    Raises:
        VideoReadError: not a video, or damaged before the last of the times.
    """
    wanted = sorted(set(times))
    found: dict[float, UInt8[np.ndarray, "h w 3"]] = {}
    # `data check` has decided what may be cut off; the file is the one that it saw.
    with open_video(path, allow_truncated=True) as source:
        shown = None
        for frame in source.frames:
            while shown is not None and len(found) < len(wanted):
                time = wanted[len(found)]
                if float(frame.time) <= time + ON_TIME:
                    break
                found[time] = shown
            if len(found) == len(wanted):
                break
            shown = frame.pixels
        assert shown is not None, "a source has a first frame"
        for time in wanted[len(found) :]:
            found[time] = shown
    return [found[time] for time in times]


def fit(frame: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crops a frame about its centre to the aspect of the size, then resizes it; nothing is stretched.

    Reducing averages over areas, enlarging is bicubic.
    """
    rows, columns = frame.shape[:2]
    scale = max(width / columns, height / rows)
    cut_columns, cut_rows = min(columns, round(width / scale)), min(rows, round(height / scale))
    left, top = (columns - cut_columns) // 2, (rows - cut_rows) // 2
    cut = frame[top : top + cut_rows, left : left + cut_columns]
    if cut.shape[:2] == (height, width):
        return cut
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(cut, (width, height), interpolation=way))
