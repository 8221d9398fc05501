"""Posters and slices show what is in the clip, small."""

import base64
import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_diffusion.video import VideoReadError, write_video
from video_diffusion.web import SliceLine, draw_clip_images


def image(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def moving_square(sideways: bool) -> np.ndarray:
    """9 frames of 40 by 64: a white square whose place grows by 4 pixels a frame."""
    frames = np.zeros((9, 40, 64, 3), np.uint8)
    for index in range(9):
        top, left = (20, 4 + 4 * index) if sideways else (2 + 3 * index, 30)
        frames[index, top : top + 10, left : left + 10] = 255
    return frames


def written(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "clip.png/"
    write_video(f"{path}/", frames, Fraction(8), codec="png")
    return path


def test_a_slice_of_sideways_motion_is_a_row_with_time_to_the_right(tmp_path: Path):
    made = draw_clip_images(written(tmp_path, moving_square(sideways=True)), 9)
    assert made.line.direction == "row" and 20 <= round(made.line.place * 39) < 30
    shown = image(made.slice_image)
    assert shown.shape == (64, 9, 3)  # x down, time to the right
    assert [int(np.flatnonzero(shown[:, t, 0] > 127)[0]) for t in range(9)] == [4 + 4 * t for t in range(9)]


def test_a_slice_of_upright_motion_is_a_column(tmp_path: Path):
    made = draw_clip_images(written(tmp_path, moving_square(sideways=False)), 9)
    assert made.line.direction == "column" and 30 <= round(made.line.place * 63) < 40
    shown = image(made.slice_image)
    assert shown.shape == (40, 9, 3)
    assert [int(np.flatnonzero(shown[:, t, 0] > 127)[0]) for t in range(9)] == [2 + 3 * t for t in range(9)]


def test_a_given_line_is_followed(tmp_path: Path):
    path = written(tmp_path, moving_square(sideways=True))
    assert not image(draw_clip_images(path, 9, SliceLine("row", 0.0)).slice_image).any()
    assert image(draw_clip_images(path, 9, SliceLine("column", 1.0)).slice_image).shape == (40, 9, 3)


def test_posters_are_the_first_frame_and_large_ones_shrink(tmp_path: Path):
    frames = moving_square(sideways=True)
    assert np.array_equal(image(draw_clip_images(written(tmp_path, frames), 9).poster), frames[0])
    wide = np.full((2, 100, 500, 3), 90, np.uint8)
    write_video(tmp_path / "wide.mp4", wide, Fraction(8))
    assert image(draw_clip_images(tmp_path / "wide.mp4", 2).poster).shape == (38, 192, 3)


def test_long_clips_are_thinned_evenly(tmp_path: Path):
    frames = np.repeat(np.arange(0, 250, dtype=np.uint8)[:, None, None, None], 3, 3)
    long = np.concatenate([frames, frames, frames])  # 750 frames, one pixel each
    made = draw_clip_images(written(tmp_path, long), 750)
    shown = image(made.slice_image)
    assert shown.shape == (1, 250, 3) and np.array_equal(shown[0, :3, 0], [0, 3, 6])


def test_a_still_clip_has_a_slice_through_its_middle(tmp_path: Path):
    still = np.full((3, 21, 33, 3), 7, np.uint8)
    assert draw_clip_images(written(tmp_path, still), 3).line == SliceLine("row", 0.5)


def test_what_is_no_clip_is_refused(tmp_path: Path):
    (tmp_path / "x.mp4").write_text("hello")
    with pytest.raises(VideoReadError):
        draw_clip_images(tmp_path / "x.mp4", 4)
