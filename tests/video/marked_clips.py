"""Frames whose corner and brightness tell how they lie and which they are, as files; refusals to read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ffmpeg_program import ffmpeg

from video_diffusion.video import VideoReadError, read_video

TOP_LEFT, REST = (200, 40, 30), (30, 60, 190)


def marked_frames(num_frames: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    """Blue, with a red quarter at the top left, and brightness that tells the frames apart."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = REST
    frames[:, : height // 2, : width // 2] = TOP_LEFT
    return frames + np.arange(num_frames, dtype=np.uint8)[:, None, None, None] * 8


def encode(path: Path, frames: np.ndarray, *options: object, fps: object = 8) -> Path:
    raw = path.with_suffix(".raw")
    raw.write_bytes(frames.tobytes())
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", fps, "-i", raw, *options, path)
    raw.unlink()
    return path


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(VideoReadError) as caught:
        read_video(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}") and "\n" not in message.removeprefix(str(path))
    return message.removeprefix(f"{path}").lstrip("/:").strip()
