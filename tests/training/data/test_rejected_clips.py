"""Every way a clip can be wrong ends in the rejects with its reason; no caption ever moves."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checked_folder import assert_nothing_moved, check, cut_fast_start, reasons
from ffmpeg_program import ffmpeg
from nobody import as_nobody
from painted_clips import paint_video, painted_frames
from picture_bomb import picture_bomb
from PIL import Image

from video_diffusion.training.data.probe import Task, probe


def audio(path: Path, good: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", 1, "-c:a", "aac", path)


def cover(path: Path, good: Path) -> None:
    Image.fromarray(painted_frames(1)[0]).save(path.with_suffix(".cover.png"))
    ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", 1, "-c:a", "aac", path.with_suffix(".a.m4a"))
    ffmpeg("-i", path.with_suffix(".a.m4a"), "-i", path.with_suffix(".cover.png"), "-map", 0, "-map", 1,
           "-c", "copy", "-disposition:v:0", "attached_pic", path)  # fmt: skip
    path.with_suffix(".cover.png").unlink()
    path.with_suffix(".a.m4a").unlink()


def hdr(path: Path, good: Path) -> None:
    pq = "scale=out_color_matrix=bt2020,setparams=colorspace=bt2020nc:color_trc=smpte2084"
    ffmpeg("-i", good, "-vf", pq, "-pix_fmt", "yuv420p10le", path)


def resized_midway(path: Path, good: Path) -> None:
    parts = [paint_video(path.with_suffix(f".{height}.m2t"), 4, height) for height in (32, 48)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


def large(path: Path, good: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=size=8200x16:rate=8:duration=0.25", "-c:v", "libvpx-vp9", path)


def times_that_stand_still(path: Path, good: Path) -> None:
    """Two frames at every moment."""
    ffmpeg("-i", good, "-c", "copy", "-bsf:v", "setts=ts=floor(N/2)*2/24/TB", path)


BAD: dict[str, tuple[str, Callable[[Path, Path], object], str]] = {
    "empty": (".mp4", lambda path, good: path.write_bytes(b""), "is empty (0 bytes); not a video"),
    "random": (
        ".mp4", lambda path, good: path.write_bytes(np.random.default_rng(0).bytes(4000)), "not a plain",
    ),
    "text": (".mp4", lambda path, good: path.write_text("only text\n" * 99), "not a plain video file"),
    "html": (".mp4", lambda path, good: path.write_text("<!DOCTYPE html>404" * 99), "not a plain video file"),
    "lfs pointer": (
        ".mp4", lambda path, good: path.write_text("version https://git-lfs.github.com\n"), "not a plain",
    ),
    "picture": (
        ".mp4",
        lambda path, good: Image.fromarray(painted_frames(1)[0]).save(path, "PNG"),
        "not a plain video file",
    ),
    "no index": (
        ".mp4",
        lambda path, good: path.write_bytes(good.read_bytes()[:-400]),
        "has no index (moov): its writing was cut off",
    ),
    "cut": (".mp4", cut_fast_start, "damaged or cut off after frame"),
    "audio": (".mp4", audio, "no video stream in it (only audio)"),
    "cover": (".mp4", cover, "no video stream in it (only audio, cover picture)"),
    "one frame": (".mp4", lambda path, good: paint_video(path, 1), "holds 1 frame; a clip needs at least 2"),
    "hdr": (".mp4", hdr, "is HDR (PQ); convert it to BT.709 first"),
    "resized": (".ts", resized_midway, "the size changes from 48x32 to 48x48"),
    "too large": (".webm", large, "is 8200x16, beyond 8192 pixels a side"),
    "ffconcat": (
        ".mp4", lambda path, good: path.write_text("ffconcat version 1.0\nfile good.mp4\n"), "not a plain",
    ),
    "playlist": (
        ".mp4",
        lambda path, good: path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.mp4\n#EXT-X-ENDLIST\n"),
        "not a plain video file",
    ),
    "fifo": (".mp4", lambda path, good: os.mkfifo(path), "is not a regular file"),
    "device": (".mp4", lambda path, good: path.symlink_to("/dev/zero"), "is a link that leaves the folder"),
    "loop": (".mp4", lambda path, good: path.symlink_to(path.name), "is a link to itself"),
    "outside": (".mp4", lambda path, good: path.symlink_to(good), "is a link that leaves the folder"),
    "dangling": (".mp4", lambda path, good: path.symlink_to("nothing.mp4"), "no such file"),
    "stand still": (".mkv", times_that_stand_still, "its times do not increase at frame"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_rejected_with_its_reason(folder: Path, good: Path, kind: str) -> None:
    suffix, make, reason = BAD[kind]
    make(folder / f"m {kind}{suffix}", good)
    (folder / f"m {kind}.txt").write_text("a caption that must not move")
    done = check(folder)
    found = reasons(done)
    assert set(found) == {f"m {kind}{suffix}"} and found[f"m {kind}{suffix}"].startswith(reason), found
    assert_nothing_moved(done)
    assert len(done.entries) == 2


def test_a_decompression_bomb_is_refused_by_its_header(folder: Path) -> None:
    picture_bomb(folder / "m.png", 60_000, 60_000)
    (folder / "m.txt").write_text("a bomb")
    assert "beyond" in reasons(check(folder))["m.png"]


def test_no_permission(folder: Path, good: Path) -> None:
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o005)
    (folder / "m.mp4").write_bytes(good.read_bytes())
    (folder / "m.mp4").chmod(0)
    with as_nobody():
        assert (
            probe(folder, Task("m.mp4")).problem
            == "cannot be read (Permission denied); check its permissions"
        )
