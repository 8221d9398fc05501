"""Files that were cut off, change midway, or are larger than the limits are refused."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from marked_clips import encode, marked_frames, refusal
from picture_bomb import picture_bomb
from PIL import Image

from video_diffusion.video import ReadLimits, read_video, write_video


def test_a_size_change_is_an_error(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{height}.ts", marked_frames(4, height, 48), "-pix_fmt", "yuv420p")
        for height in (32, 48)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert refusal(joined, allow_truncated=True).startswith("the size changes from 48x32 to 48x48")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_clip_that_was_cut_off_is_an_error_unless_allowed(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    write_video(whole, noise, Fraction(8))
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    assert refusal(cut).startswith(("damaged or cut off after frame", "cut off:"))
    video = read_video(cut, allow_truncated=True)
    assert 1 <= len(video.frames) < 24
    assert any("cut off" in note for note in video.notes)
    assert len(read_video(whole).frames) == 24


def test_an_mp4_without_its_index_says_that_writing_was_cut_off(tmp_path: Path) -> None:
    path = encode(tmp_path / "late.mp4", marked_frames(), "-pix_fmt", "yuv420p")  # index at the end
    path.write_bytes(path.read_bytes()[:-400])
    assert refusal(path).startswith("has no index (moov): its writing was cut off")


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png", "clip.jpg"])
def test_cut_off_pictures_are_errors(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    path = tmp_path / name
    if name in {"clip.gif", "clip.webp"}:
        write_video(path, frames, Fraction(8))
    else:
        Image.fromarray(frames[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert "damaged" in refusal(path)


def test_limits_hold_before_decoding(clip: Path) -> None:
    assert refusal(clip, limits=ReadLimits(max_side=40)).startswith("is 48x32, beyond 40 pixels a side")
    assert refusal(clip, limits=ReadLimits(max_pixels=1000)).startswith("is 48x32, beyond")
    assert refusal(clip, limits=ReadLimits(max_frames=5)) == "declares 6 frames, above the limit of 5"
    assert refusal(clip, limits=ReadLimits(max_seconds=0)) == "declares 1 s, above the limit of 0"
    assert refusal(clip, limits=ReadLimits(max_bytes=3 * 48 * 32 * 5)).startswith("needs more than")
    assert len(read_video(clip, limits=ReadLimits(max_bytes=3 * 48 * 32 * 6)).frames) == 6


def test_undeclared_length_is_limited_while_reading(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.ts", marked_frames(30), "-pix_fmt", "yuv420p")
    assert refusal(path, limits=ReadLimits(max_frames=20)) == "more than 20 frames"


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    assert "beyond" in refusal(picture_bomb(tmp_path / "bomb.png", side, side))
