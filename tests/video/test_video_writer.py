"""What a written clip carries beside its frames, under any name, in the place of another."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from folder_names import names
from smooth_clips import smooth_clip

from video_diffusion.video import read_tags, read_video, write_video


def test_metadata_keeps_every_sign(tmp_path: Path) -> None:
    tags = {
        "title": "a=b;c#d\\e é 漢 \U0001f600",
        "comment": "two\nlines\\\nthree",
        "video_diffusion": '{"a": 1}',
    }
    write_video(tmp_path / "clip.mp4", smooth_clip(), Fraction(8), tags)
    assert tags.items() <= read_tags(tmp_path / "clip.mp4").items()
    write_video(tmp_path / "bare.mp4", smooth_clip(), Fraction(8))
    assert "video_diffusion" not in read_tags(tmp_path / "bare.mp4")


def test_the_index_stands_before_the_pictures(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(), Fraction(8))
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("name", ["a#b 100%?.mp4", "-rf.mp4", "two\nlines.mp4", "漢字.mp4", "concat:x|y.mp4"])
def test_strange_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(name, smooth_clip(), Fraction(8))
    assert names(tmp_path) == {name}
    assert len(read_video(name).frames) == 5


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, smooth_clip(), Fraction(8), {"title": "x"})
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_no_frames_are_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 frames"):
        write_video(tmp_path / "clip.mp4", np.zeros((0, 16, 24, 3), np.uint8), Fraction(8))


def test_an_existing_clip_is_refused_unless_overwritten(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"old")
    with pytest.raises(FileExistsError, match=r"clip\.mp4 exists"):
        write_video(tmp_path / "clip.mp4", smooth_clip(), Fraction(8), overwrite=False)
    assert (tmp_path / "clip.mp4").read_bytes() == b"old"
    write_video(tmp_path / "clip.mp4", smooth_clip(), Fraction(8))
    assert len(read_video(tmp_path / "clip.mp4").frames) == 5


def test_a_folder_of_pngs_is_replaced_whole(tmp_path: Path) -> None:
    for count in (4, 2):
        write_video(f"{tmp_path}/frames/", smooth_clip(count), Fraction(8))
    assert names(tmp_path / "frames") == {"0000.png", "0001.png"}
    assert json.dumps(sorted(names(tmp_path))) == '["frames"]'
