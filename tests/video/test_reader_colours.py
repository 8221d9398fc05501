"""Colours are read as they are tagged, in every depth and sampling; HDR is refused."""

from pathlib import Path

import numpy as np
import pytest
from ffmpeg_program import BT709
from marked_clips import encode, marked_frames, refusal

from video_diffusion.video import read_video

FLAT = np.broadcast_to(
    np.array([[210, 60, 30], [20, 180, 90], [90, 90, 90]], np.uint8)[:, None, None], (3, 16, 24, 3)
)
BT601 = "scale=out_color_matrix=bt601:out_range=tv,setparams=colorspace=smpte170m:range=tv"
FULL = "scale=out_color_matrix=bt709:out_range=pc,setparams=colorspace=bt709:range=pc"


@pytest.mark.parametrize(
    "options",
    [
        ("-vf", BT601, "-pix_fmt", "yuv420p"),
        ("-vf", FULL, "-pix_fmt", "yuv420p"),
        ("-vf", FULL, "-pix_fmt", "yuvj420p"),
        ("-vf", BT709, "-pix_fmt", "yuv420p10le"),
        ("-vf", BT709, "-pix_fmt", "yuv422p"),
        ("-c:v", "libx264rgb", "-pix_fmt", "rgb24"),
    ],
    ids=["BT.601", "full range", "yuvj", "10 bit", "4:2:2", "RGB"],
)
def test_colours_follow_the_tags(tmp_path: Path, options: tuple[str, ...]) -> None:
    video = read_video(encode(tmp_path / "flat.mp4", FLAT, *options, "-crf", 0))
    assert np.abs(video.frames.astype(int) - FLAT).max() <= 2


def test_untagged_colours_are_read_as_bt601_and_said_so(tmp_path: Path) -> None:
    untagged = (
        "scale=out_color_matrix=bt601:out_range=tv,setparams=colorspace=unknown:color_primaries=unknown"
    )
    video = read_video(encode(tmp_path / "flat.mp4", FLAT, "-vf", untagged, "-pix_fmt", "yuv420p", "-crf", 0))
    assert np.abs(video.frames.astype(int) - FLAT).max() <= 2
    assert video.notes == ("colours are not tagged; read as BT.601",)


def test_hdr_is_refused(tmp_path: Path) -> None:
    pq = "scale=out_color_matrix=bt2020,setparams=colorspace=bt2020nc:color_trc=smpte2084"
    path = encode(tmp_path / "hdr.mp4", FLAT, "-vf", pq, "-pix_fmt", "yuv420p10le")
    assert refusal(path) == "is HDR (PQ); convert it to BT.709 first, or measure --tone-map"


def test_grey_video_is_rgb(tmp_path: Path) -> None:
    video = read_video(encode(tmp_path / "grey.mp4", marked_frames(), "-pix_fmt", "gray"))
    assert video.frames.shape[-1] == 3 and np.ptp(video.frames, axis=-1).max() <= 1
