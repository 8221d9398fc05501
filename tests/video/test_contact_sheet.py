"""Pictures of clips: every frame is there, the curve is the measured one, nothing melts into the paper."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from video_diffusion.video.images import ACCENT, draw_contact_sheet, draw_filmstrip, evenly, save_picture


def coloured_frames(num_frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Each frame one colour of its own."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames += np.arange(1, num_frames + 1, dtype=np.uint8)[:, None, None, None] * np.array(
        [9, 5, 3], np.uint8
    )
    return frames


def pixels_of(picture: np.ndarray, colour: np.ndarray) -> int:
    return int((picture == colour).all(-1).sum())


@pytest.mark.parametrize("num_frames", [1, 5, 8, 19])
def test_every_frame_is_on_the_sheet_at_one_size(num_frames: int) -> None:
    frames = coloured_frames(num_frames)
    sheet = draw_contact_sheet(frames, "title", "facts")
    assert {pixels_of(sheet, frame[0, 0]) for frame in frames} == {64 * 96}  # 48 wide is shown twice as wide


def test_large_frames_are_reduced() -> None:
    sheet = draw_contact_sheet(coloured_frames(2, 400, 1200), "title", "facts", columns=2)
    assert sheet.shape[1] < 2 * 330 + 60


def test_the_curve_is_drawn_to_scale() -> None:
    def height_of_peak(curve: list[float | None], full_scale: float) -> int:
        sheet = draw_contact_sheet(
            coloured_frames(3), "t", "f", curve=curve, curve_label="", full_scale=full_scale
        )
        red = np.array([int(ACCENT[place : place + 2], 16) for place in (1, 3, 5)])
        rows = np.where((np.abs(sheet.astype(int) - red).max(-1) < 8).any(1))[0]
        return int(rows.max() - rows.min())

    full, half = height_of_peak([0.0, 2.0, 0.0], 2.0), height_of_peak([0.0, 2.0, 0.0], 4.0)
    assert full == pytest.approx(145, abs=8)
    assert half == pytest.approx(full / 2, abs=6)


def test_no_values_no_chart() -> None:
    frames = coloured_frames(3)
    with_curve = draw_contact_sheet(frames, "t", "f", curve=[None, 1.0, None], curve_label="flicker")
    without = draw_contact_sheet(frames, "t", "f", curve=[None, None, None], curve_label="flicker")
    assert with_curve.shape[0] > without.shape[0] + 150


def test_white_pictures_keep_an_edge() -> None:
    white = np.full((1, 32, 48, 3), 255, np.uint8)
    sheet = draw_contact_sheet(white, "", "")
    assert (sheet[-60:-20] != 255).any()


def test_a_filmstrip_has_a_row_for_each_step() -> None:
    rows = [coloured_frames(4) + np.uint8(60 * step) for step in range(3)]
    strip = draw_filmstrip(rows, ["step 1", "step 2", "step 3"], "title", "facts")
    for clip in rows:
        assert {pixels_of(strip, frame[0, 0]) for frame in clip} == {64 * 96}


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=400), st.text(max_size=100))
def test_any_text_fits(title: str, facts: str) -> None:
    assert draw_contact_sheet(coloured_frames(1), title, facts).shape[1] == 480 + 2 * 28


@given(st.integers(1, 500), st.integers(1, 20))
def test_evenly_spread_with_both_ends(count: int, most: int) -> None:
    chosen = evenly(count, most)
    assert len(chosen) == min(count, most) == len(set(chosen))
    assert chosen[-1] == count - 1 and (chosen[0] == 0 or most == 1)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_are_saved_by_suffix(tmp_path: Path, suffix: str) -> None:
    picture = draw_contact_sheet(coloured_frames(2), "title", "facts")
    save_picture(tmp_path / f"sheet{suffix}", picture)
    with Image.open(tmp_path / f"sheet{suffix}") as image:
        assert image.size == picture.shape[1::-1]
    with pytest.raises(ValueError, match=r"must end in \.png"):
        save_picture(tmp_path / "sheet.pdf", picture)
    with pytest.raises(FileExistsError):
        save_picture(tmp_path / f"sheet{suffix}", picture, overwrite=False)
    assert len(list(tmp_path.iterdir())) == 1
