"""Cells of clips: curves with their holes, problems in words."""

from pathlib import Path

from video_diffusion.web import ClipView, with_images
from video_diffusion.web.clips import draw_curve


def test_a_curve_stands_on_its_frames_and_is_open_where_nothing_is():
    assert (
        draw_curve([None, 2.0, 4.0, None, 1.0, float("nan"), 9.0, 0.0], 4.0)
        == "M1.5 50L2.5 0M6.5 0L7.5 100M4.3 75L4.7 75"
    )
    assert draw_curve([], 4.0) == draw_curve([None, None], 4.0) == ""
    assert draw_curve([0.5, 1.0], 0.0) == draw_curve([0.5, 1.0], float("nan")) == "M0.5 50L1.5 0"


def test_clips_that_are_not_there_say_so(tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"\x00" * 40)
    view = ClipView("A", "a clip", path="gone.mp4")
    assert with_images(view, tmp_path).problem == "The file is not there"
    assert with_images(ClipView("A", "a clip"), tmp_path).problem == "The file is not there"
    assert with_images(ClipView("A", "", path="bad.mp4"), tmp_path).problem.startswith("Cannot be read: ")
    assert with_images(ClipView("A", "", problem="it failed"), tmp_path).problem == "it failed"
    assert view.slice_label == "" and view.record_url == "" and view.url == "./gone.mp4"
