"""Videos and pictures that clips start from: length, size, what is cut off, what is refused."""

import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_diffusion.video import VideoReadError, write_video
from video_diffusion.video.images import Taken, fit, read_input_image, read_input_video

FRAMES = np.arange(5 * 16 * 24 * 3, dtype=np.uint32).reshape(5, 16, 24, 3).astype(np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mkv", FRAMES, Fraction(8), codec="libx264rgb")
    return tmp_path / "clip.mkv"


def test_the_first_frames_are_taken_as_they_are(clip: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_input_video(clip, 3, 16, 24), FRAMES[:3])


def test_too_short_a_video_is_refused_with_the_way_out(clip: Path) -> None:
    with pytest.raises(
        ValueError, match=r"clip.mkv has 5 frames, but num_frames is 6; set num_frames to 5 or"
    ):
        read_input_video(clip, 6, 16, 24)


def numbered(path: Path, fps: Fraction, count: int = 40) -> Path:
    """A video whose every pixel tells the number of its frame."""
    levels = np.arange(count, dtype=np.uint8)[:, None, None, None] * 6
    frames = np.broadcast_to(levels, (count, 16, 24, 3)).copy()
    write_video(path, frames, fps, codec=None if path.suffix == ".gif" else "libx264rgb", crf=None)
    return path


def numbers(frames: np.ndarray) -> list[int]:
    return [round(float(level) / 6) for level in frames.mean(axis=(1, 2, 3))]


@pytest.mark.parametrize(
    ("own", "taken", "expected"),
    [
        ("32", Taken(Fraction(8)), [0, 4, 8, 12, 16]),
        ("32", Taken(Fraction(8), start=0.5), [16, 20, 24, 28, 32]),
        ("32", Taken(Fraction(8), stride=1), [0, 1, 2, 3, 4]),
        ("32", Taken(Fraction(8), start=0.25, stride=3), [8, 11, 14, 17, 20]),
        ("4", Taken(Fraction(8)), [0, 0, 1, 1, 2]),
        ("30", Taken(Fraction(8)), [0, 4, 7, 11, 15]),
        ("30000/1001", Taken(Fraction("29.97")), [0, 1, 2, 3, 4]),
        ("8", Taken(Fraction(8)), [0, 1, 2, 3, 4]),
    ],
)
def test_a_video_of_another_rate_was_played_slow(
    tmp_path: Path, own: str, taken: Taken, expected: list[int]
) -> None:
    """Symptom: of a video of 30 fps an 8 fps clip took the first half second and stretched it."""
    video = numbered(tmp_path / "in.mkv", Fraction(own))
    assert numbers(read_input_video(video, 5, 16, 24, taken=taken)) == expected


def test_what_was_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = numbered(tmp_path / "in.mkv", Fraction(32))
    with caplog.at_level("INFO", "video_diffusion"):
        read_input_video(video, 5, 16, 24, taken=Taken(Fraction(32)))
        assert not caplog.records
        read_input_video(video, 5, 16, 24, taken=Taken(Fraction(8), start=0.5))
        assert "5 frames taken from 0.5 to 1 s, at the clip's rate of 8 fps, its own is 32 fps" in caplog.text
        read_input_video(video, 5, 16, 24, taken=Taken(Fraction(8), stride=2))
        assert "5 frames taken from 0 to 0.25 s, one of every 2 frames" in caplog.text


@pytest.mark.parametrize(
    ("taken", "told"),
    [
        (
            Taken(Fraction(8)),
            r"has 10 frames at 8 fps, but .* 16; set num_frames to 10 or less, or video_stride to 1,",
        ),
        (
            Taken(Fraction(8), 1.0),
            r"has 2 frames from second 1 on at 8 fps, .* or video_start to less, or video_str",
        ),
        (
            Taken(Fraction(8), 9.0, 1),
            r"has 0 frames from second 9 on, but num_frames is 16; set video_start to less",
        ),
        (Taken(Fraction(8), stride=4), r"has 10 frames, taking every 4, .* less, or video_stride to less"),
    ],
)
def test_too_little_of_a_video_is_refused_with_what_gives_more(
    tmp_path: Path, taken: Taken, told: str
) -> None:
    video = numbered(tmp_path / "in.mkv", Fraction(32))
    with pytest.raises(ValueError, match=told):
        read_input_video(video, 16, 16, 24, taken=taken)


def test_what_sticks_out_is_cut_evenly_and_said(clip: Path) -> None:
    with pytest.warns(UserWarning, match="is 24x16; 33 % of it is cut off to fit 16x16"):
        found = read_input_video(clip, 2, 16, 16)
    assert np.array_equal(found, FRAMES[:2, :, 4:20])


def test_a_picture_is_scaled_until_it_covers() -> None:
    flat = np.full((10, 30, 3), 77, np.uint8)
    for height, width in ((20, 60), (8, 8), (64, 16), (10, 30)):
        found = fit(flat, height, width)
        assert found.shape == (height, width, 3)
        assert bool((found == 77).all())
    left, right = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    halves = fit(np.concatenate([left, right], axis=1), 4, 8)
    assert bool((halves[:, :3] == 0).all() and (halves[:, 5:] == 255).all())


def test_a_picture_or_the_first_frame_of_a_clip(clip: Path, tmp_path: Path) -> None:
    Image.fromarray(FRAMES[2]).save(tmp_path / "picture.png")
    assert np.array_equal(read_input_image(tmp_path / "picture.png", 16, 24), FRAMES[2])
    assert np.array_equal(read_input_image(clip, 16, 24), FRAMES[0])


def test_a_folder_of_images_is_a_video(tmp_path: Path) -> None:
    for index, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    assert np.array_equal(read_input_video(tmp_path, 5, 16, 24), FRAMES)


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x00" * 4096])
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("broken.mp4", "broken.png"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(VideoReadError) as caught:
            read_input_video(path, 2, 16, 16)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(VideoReadError, match="no such file"):
        read_input_image(tmp_path / "none.png", 16, 16)
