"""Every way a clip or its caption can be wrong ends in the rejects with its reason; no caption ever moves."""

import json
import multiprocessing
import os
import signal
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from painted_clips import paint_video, painted_frames
from PIL import Image

from video_diffusion.config import ConfigError
from video_diffusion.io import write_video
from video_diffusion.training.data import ClipEntry, probe_run, read_manifest
from video_diffusion.training.data.clip_sources import find_source
from video_diffusion.training.data.folder_check import FolderCheck
from video_diffusion.training.data.probe import Probe, Task, probe

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def check(
    folder: Path, wanted: str = "auto", list_file: Path | None = None, **options: object
) -> FolderCheck:
    done = FolderCheck(folder, find_source(folder, wanted, list_file))
    for _ in done.steps(0, **options):
        pass
    return done


def reasons(done: FolderCheck) -> dict[str, str]:
    """As the file says them, which must be what the check returns."""
    rows = [json.loads(line) for line in (done.root / "rejects.jsonl").read_text().splitlines()]
    assert [(row["path"], row["where"], row["reason"]) for row in rows] == [
        (one.path, one.where, one.reason) for one in done.rejects
    ]
    return {row["path"]: row["reason"] for row in rows}


def taken(done: FolderCheck) -> dict[str, ClipEntry]:
    if done.entries:
        assert read_manifest(done.root) == done.entries
    return {entry.id: entry for entry in done.entries}


def ffmpeg(*arguments: object) -> None:
    done = subprocess.run(
        [FFMPEG, "-y", "-v", "error", *map(str, arguments)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 48x32 at 24 fps."""
    return paint_video(tmp_path_factory.mktemp("good") / "good.mp4")


@pytest.fixture
def folder(tmp_path: Path, good: Path) -> Path:
    """A folder with two good clips around whatever a test adds."""
    for name in ("a first", "z last"):
        (tmp_path / f"{name}.mp4").write_bytes(good.read_bytes() + b"")
        (tmp_path / f"{name}.txt").write_text(f"caption of {name}")
    return tmp_path


def assert_nothing_moved(done: FolderCheck) -> None:
    found = taken(done)
    assert {"a first", "z last"} <= set(found)
    for name, entry in found.items():
        assert entry.caption == f"caption of {name}"


def noise(num_frames: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 32, 48, 3), dtype=np.uint8)


def cut_fast_start(path: Path, good: Path) -> None:
    write_video(path, noise(), Fraction(8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


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


def says_60_shows_24(path: Path, good: Path) -> None:
    """A rate in the header that the frames' own times deny, as screen recorders write."""
    paint_video(path.with_suffix(".mp4"), 24, fps=60)
    ffmpeg("-i", path.with_suffix(".mp4"), "-c", "copy", "-bsf:v", "setts=ts=TS*5/2", path)
    path.with_suffix(".mp4").unlink()


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


CAPTIONS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "has no caption: no m.txt"),
    "empty": (b"", "its caption m.txt is empty"),
    "blank": (b" \n\t\xef\xbb\xbf\n", "its caption m.txt is empty"),
    "mark only": (b"\xef\xbb\xbf", "its caption m.txt is empty"),
    "latin-1": (b"caf\xe9 au lait", "its caption m.txt is not UTF-8 (byte 0xe9 at 3); save it as UTF-8"),
    "unmarked utf-16": ("a red circle".encode("utf-16-le"), "its caption m.txt holds a NUL character"),
    "odd utf-16": (b"\xff\xfea\0b", "its caption m.txt is not UTF-16"),
    "10 MB": (b"a " * 5_000_000, "its caption m.txt has 10000000 bytes, above 100000: no caption"),
    "video": (b"\0\0\0\x20ftypisom", "its caption m.txt holds a NUL character"),
}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_a_bad_caption_is_rejected_with_its_reason(folder: Path, good: Path, kind: str) -> None:
    data, reason = CAPTIONS[kind]
    (folder / "m.mp4").write_bytes(good.read_bytes())
    if data is not None:
        (folder / "m.txt").write_bytes(data)
    done = check(folder)
    assert reasons(done)["m.mp4"].startswith(reason), reasons(done)
    assert len(done.rejects) == 1
    assert_nothing_moved(done)


@pytest.mark.parametrize(
    "data",
    ["caption of m".encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16")]
    + [b"\xfe\xff" + "caption of m".encode("utf-16-be"), b"  caption of m\r\n"],
)
def test_captions_with_marks_and_line_ends_are_read(folder: Path, good: Path, data: bytes) -> None:
    (folder / "m.mp4").write_bytes(good.read_bytes())
    (folder / "m.txt").write_bytes(data)
    done = check(folder)
    assert len(done.entries) == 3 and not done.rejects
    assert_nothing_moved(done)


def rotated(path: Path, good: Path) -> None:
    ffmpeg("-display_rotation", 90, "-i", good, "-c", "copy", path)


def two_streams(path: Path, good: Path) -> None:
    ffmpeg("-i", good, "-i", good, "-map", 0, "-map", 1, "-c", "copy", path)


def animated(path: Path, good: Path) -> None:
    first, *rest = [Image.fromarray(frame) for frame in painted_frames(12)]
    first.save(path, save_all=True, append_images=rest, duration=100)


def encoded(*options: object) -> Callable[[Path, Path], None]:
    return lambda path, good: ffmpeg("-i", good, *options, path)


BT709 = "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:range=tv"
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


def test_a_decompression_bomb_is_refused_by_its_header(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (folder / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    (folder / "m.txt").write_text("a bomb")
    assert "beyond" in reasons(check(folder))["m.png"]


def test_two_clips_never_share_a_caption(folder: Path, good: Path) -> None:
    for name in ("m.mp4", "m.webm"):
        (folder / name).write_bytes(good.read_bytes())
    (folder / "m.txt").write_text("of which?")
    (folder / "lonely.txt").write_text("a clip that was taken away")
    (folder / "README.txt").write_text("about this folder")
    done = check(folder)
    assert reasons(done) == {
        "m.mp4": "shares the caption m.txt with m.webm; one caption belongs to one clip",
        "m.webm": "shares the caption m.txt with m.mp4; one caption belongs to one clip",
        "lonely.txt": "is a caption without a clip beside it",
    }
    assert_nothing_moved(done)


def test_names_that_differ_only_in_case_or_accents_are_refused(folder: Path, good: Path) -> None:
    for name in ("Clip", "clip", "caf\u00e9", "cafe\u0301"):
        (folder / f"{name}.mp4").write_bytes(good.read_bytes())
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    found = reasons(check(folder))
    assert set(found) == {"Clip.mp4", "clip.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4"}
    assert found["clip.mp4"] == "differs from 'Clip.mp4' only in upper and lower case or accents; rename one"


def test_names_with_any_sign_and_folders_work(folder: Path, good: Path) -> None:
    names = ("sub/deep/m", "a#b 100%?", "-i", "two\nlines", "日本語 ✓", "con.cat", "\x1b[2J")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mp4").write_bytes(good.read_bytes())
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    (folder / ".hidden.mp4").write_bytes(b"not looked at")
    done = check(folder)
    assert done.rejects == [] and set(names) <= set(taken(done))
    assert_nothing_moved(done)
    (folder / os.fsdecode(b"bad\xff.mp4")).write_bytes(good.read_bytes())
    (folder / os.fsdecode(b"bad\xff.txt")).write_text("a caption")
    assert "has a name that is not UTF-8; rename it" in reasons(check(folder)).values()


@contextmanager
def as_nobody() -> Iterator[None]:
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


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


def test_a_second_run_decodes_only_what_is_new_or_changed(folder: Path, good: Path) -> None:
    assert check(folder).num_decoded == 2
    assert check(folder).num_decoded == 0
    os.utime(folder / "a first.mp4", ns=(5, 5))  # another time, the same bytes
    again = check(folder)
    assert again.num_decoded == 0 and taken(again)["a first"].mtime_ns == 5
    (folder / "a first.txt").write_text("another caption")
    (folder / "m.mp4").write_bytes(good.read_bytes())
    (folder / "m.txt").write_text("caption of m")
    done = check(folder)
    assert done.num_decoded == 1 and taken(done)["a first"].caption == "another caption"
    paint_video(folder / "z last.mp4", 12)
    done = check(folder)
    assert done.num_decoded == 1 and taken(done)["z last"].num_frames == 12
    (folder / "m.mp4").unlink()
    assert reasons(check(folder)) == {"m.txt": "is a caption without a clip beside it"}


def test_a_killed_check_goes_on_where_it_was(folder: Path) -> None:
    steps = FolderCheck(folder, find_source(folder)).steps(0)
    next(steps)
    steps.close()
    assert not (folder / "manifest.jsonl").exists()
    with (folder / ".data-check.jsonl").open("a") as file:
        file.write('{"format": 1, "task": {"pa')  # torn by the crash
    done = check(folder)
    assert done.num_decoded == 1 and len(done.entries) == 2


def test_processes_find_the_same(folder: Path, good: Path) -> None:
    (folder / "m.mp4").write_bytes(b"no video")
    (folder / "m.txt").write_text("a caption")
    alone = check(folder)
    (folder / ".data-check.jsonl").unlink()
    done = FolderCheck(folder, find_source(folder))
    assert [total for _, total in done.steps(2)] == [3, 3, 3]
    assert (done.entries, done.rejects, done.num_decoded) == (alone.entries, alone.rejects, 3)


def test_a_folder_without_anything_good_leaves_no_manifest_to_train_on(folder: Path, good: Path) -> None:
    check(folder)
    for name in ("a first", "z last"):
        (folder / f"{name}.txt").unlink()
    done = check(folder)
    assert len(done.rejects) == 2
    with pytest.raises(ValueError, match=r"holds no clip; see rejects\.jsonl"):
        read_manifest(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; name a folder of clips"):
        find_source(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        find_source(tmp_path / "file")


@pytest.mark.slow
def test_a_decoder_that_dies_takes_no_other_file_with_it(folder: Path, good: Path) -> None:
    """Processes are killed from outside, as a crash would end them; every file is still judged rightly."""
    for number in range(30):
        (folder / f"copy {number}.mp4").write_bytes(good.read_bytes())
        (folder / f"copy {number}.txt").write_text(f"caption of copy {number}")
    done = FolderCheck(folder, find_source(folder))
    killed = 0
    for number, _ in done.steps(2):
        if number == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                killed += 1
    assert killed and done.rejects == [] and len(done.entries) == 32
    assert_nothing_moved(done)


def test_a_file_that_crashes_the_decoder_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such file is known, so a process that ends at once stands in for one that crashes."""
    monkeypatch.setattr(probe_run, "probe", _dies_on_the_first)
    done = FolderCheck(folder, find_source(folder))
    for _ in done.steps(1):
        pass
    assert reasons(done) == {"a first.mp4": "crashes the decoder; encode it anew"}
    assert list(taken(done)) == ["z last"]


def _dies_on_the_first(root: Path, task: Task) -> Probe:
    if task.path == "a first.mp4":
        os._exit(139)
    return probe(root, task)
