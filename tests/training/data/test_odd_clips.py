"""Clips of every unusual kind are taken as they truly are, with a note where it matters."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from checked_folder import assert_nothing_moved, check, cut_fast_start, reasons, taken
from ffmpeg_program import BT709, ffmpeg
from painted_clips import paint_video, painted_frames
from PIL import Image


def says_60_shows_24(path: Path, good: Path) -> None:
    """A rate in the header that the frames' own times deny, as screen recorders write."""
    paint_video(path.with_suffix(".mp4"), 24, fps=60)
    ffmpeg("-i", path.with_suffix(".mp4"), "-c", "copy", "-bsf:v", "setts=ts=TS*5/2", path)
    path.with_suffix(".mp4").unlink()


def rotated(path: Path, good: Path) -> None:
    ffmpeg("-display_rotation", 90, "-i", good, "-c", "copy", path)


def two_streams(path: Path, good: Path) -> None:
    ffmpeg("-i", good, "-i", good, "-map", 0, "-map", 1, "-c", "copy", path)


def animated(path: Path, good: Path) -> None:
    first, *rest = [Image.fromarray(frame) for frame in painted_frames(12)]
    first.save(path, save_all=True, append_images=rest, duration=100)


def encoded(*options: object) -> Callable[[Path, Path], None]:
    return lambda path, good: ffmpeg("-i", good, *options, path)


ODD: dict[str, tuple[str, Callable[[Path, Path], object], tuple[int, int, int, str], str]] = {
    # suffix, how it is made, (frames, width, height, fps), what is remarked
    "rotated": (".mp4", rotated, (24, 32, 48, "24"), "turned upright by 90 degrees"),
    "alpha": (
        ".webm", encoded("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"), (24, 48, 32, "24"),
        "transparency is dropped",
    ),
    "10 bit": (".mp4", encoded("-vf", BT709, "-pix_fmt", "yuv420p10le"), (24, 48, 32, "24"), ""),
    "grey": (".mp4", encoded("-pix_fmt", "gray"), (24, 48, 32, "24"), ""),
    "odd size": (
        ".mp4", lambda path, good: paint_video(path, 24, 31, 47, pix_fmt="yuv444p"), (24, 47, 31, "24"), "",
    ),
    "one pixel": (
        ".mp4", lambda path, good: paint_video(path, 24, 1, 1, pix_fmt="yuv444p"), (24, 1, 1, "24"), "",
    ),
    "wide pixels": (
        ".mp4", encoded("-vf", "setsar=4/3"), (24, 48, 32, "24"), "pixels are not square (aspect 4/3)",
    ),
    "variable": (
        ".mp4",
        lambda path, good: paint_video(path, 6, ticks=[0, 1, 2, 10, 11, 25], fps=30),
        (6, 48, 32, "6"),
        "variable frame rate",
    ),
    "two streams": (".mp4", two_streams, (24, 48, 32, "24"), "2 video streams; the first is read"),
    "late": (".mkv", encoded("-c", "copy", "-output_ts_offset", 5), (24, 48, 32, "24"), ""),
    "gif": (".gif", animated, (12, 48, 32, "10"), ""),
    "webp": (".webp", animated, (12, 48, 32, "10"), ""),
    "rate lies": (".mkv", says_60_shows_24, (24, 48, 32, "24"), "declares 60 fps, but has 24"),
    "film": (".mp4", encoded("-r", "24000/1001"), (24, 48, 32, "24000/1001"), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_odd_clips_are_taken_as_they_truly_are(folder: Path, good: Path, kind: str) -> None:
    suffix, make, (num_frames, width, height, fps), note = ODD[kind]
    make(folder / f"m {kind}{suffix}", good)
    (folder / f"m {kind}.txt").write_text(f"caption of m {kind}")
    done = check(folder)
    assert done.rejects == []
    entry = taken(done)[f"m {kind}"]
    assert (entry.num_frames, entry.width, entry.height) == (num_frames, width, height)
    assert entry.fps == Fraction(fps)
    assert entry.start == 0 and abs(entry.end - num_frames / Fraction(fps)) < 0.002
    assert not note or any(text.startswith(note) for text in done.notes), done.notes
    assert_nothing_moved(done)


def test_truncated_clips_can_be_allowed(folder: Path, good: Path) -> None:
    cut_fast_start(folder / "m.mp4", good)
    (folder / "m.txt").write_text("caption of m")
    assert list(reasons(check(folder))) == ["m.mp4"]
    done = check(folder, allow_truncated=True)
    assert done.rejects == [] and 2 <= taken(done)["m"].num_frames < 24
    assert any(note.startswith("damaged or cut off") or note.startswith("cut off") for note in done.notes)


def test_pictures_with_captions_are_clips_of_one_frame_and_others_are_left_alone(
    folder: Path, good: Path
) -> None:
    picture = Image.fromarray(painted_frames(1, 40, 60)[0])
    for name in ("m.png", "thumb.jpg", "a first.png"):  # the last lies beside a video of its name
        picture.save(folder / name)
    (folder / "m.txt").write_text("caption of m")
    done = check(folder)
    entry = taken(done)["m"]
    assert entry.is_picture and (entry.width, entry.height, entry.num_frames) == (60, 40, 1)
    assert done.rejects == [] and done.num_pictures == 2
    assert_nothing_moved(done)
