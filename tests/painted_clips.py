"""Small videos whose every frame tells its own number, written by PyAV at chosen times."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from video_diffusion.training.data import ClipEntry

STEP = 6  # grey levels from one frame to the next


def painted_frames(num_frames: int, height: int = 32, width: int = 48, levels: int = STEP) -> np.ndarray:
    """Grey that brightens by some levels with every frame; the left third is darker by 12."""
    greys = 20 + levels * np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    frames = np.broadcast_to(greys, (num_frames, height, width, 3)).copy()
    frames[:, :, : width // 3] -= 12
    return frames


def numbers(frames: Any) -> list[int]:
    """The numbers of frames f c h w, read off their right edge."""
    return [round((float(frame[:, :, -4:].mean()) - 20) / STEP) for frame in np.asarray(frames, np.float64)]


def paint_video(
    path: Path,
    num_frames: int = 24,
    height: int = 32,
    width: int = 48,
    fps: Fraction | int = 24,
    ticks: Sequence[int] | None = None,
    levels: int = STEP,
    **options: str,
) -> Path:
    """Writes a clip; `ticks` are the frames' times in units of 1/fps where they are not 0, 1, 2, …"""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, options.pop("pix_fmt", "yuv420p")
        stream.codec_context.time_base = 1 / Fraction(fps)
        stream.options = {"crf": "4", "preset": "ultrafast", **options}
        frames = painted_frames(num_frames, height, width, levels)
        for tick, pixels in zip(ticks or range(num_frames), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def entry_of(path: Path, num_frames: int = 24, fps: Fraction | int | None = 24, **changes: Any) -> ClipEntry:
    """The row that describes a painted clip."""
    row: dict[str, Any] = {
        "id": path.stem,
        "path": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64,
        "num_frames": num_frames,
        "fps": None if fps is None else Fraction(fps),
        "width": 48,
        "height": 32,
        "caption": f"the clip {path.stem}",
        "start": 0.0,
        "end": 1.0 if fps is None else float(num_frames / Fraction(fps)),
        "num_bytes": path.stat().st_size if path.exists() else 1,
        "mtime_ns": path.stat().st_mtime_ns if path.exists() else 0,
    }
    return ClipEntry(**{**row, **changes})
