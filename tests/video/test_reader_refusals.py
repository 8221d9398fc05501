"""What is no video file, or none that may be read, says why in a line."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from ffmpeg_program import ffmpeg
from marked_clips import marked_frames, refusal
from nobody import as_nobody
from PIL import Image

from video_diffusion.video import VideoReadError, read_video

NOT_VIDEOS: dict[str, bytes] = {
    "empty": b"",
    "random": np.random.default_rng(0).bytes(5000),
    "text": b"this is only text\n" * 50,
    "html": b"<!DOCTYPE html><html><body>404</body></html>" * 20,
    "ffconcat": b"ffconcat version 1.0\nfile clip.mp4\n",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nclip.mp4\n#EXT-X-ENDLIST\n",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("kind", NOT_VIDEOS)
@pytest.mark.parametrize("suffix", [".mp4", ".png", ".gif"])
def test_what_is_not_a_video_says_so(clip: Path, kind: str, suffix: str) -> None:
    path = clip.with_name(f"other{suffix}")
    path.write_bytes(NOT_VIDEOS[kind])
    if kind == "empty":
        assert refusal(path).startswith("is empty (0 bytes); not")
    else:
        assert refusal(path).startswith(("not a plain video file", "not an image, or damaged"))


def test_a_picture_named_mp4_is_not_a_video(tmp_path: Path) -> None:
    Image.fromarray(marked_frames()[0]).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    assert refusal(tmp_path / "picture.mp4").startswith("not a plain video file")


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/a.mp4", "tcp://127.0.0.1:9", "data:video/mp4;base64,AAAA", "pipe:0"]
)
def test_addresses_are_only_names_of_files(name: str) -> None:
    with pytest.raises(VideoReadError, match="no such file"):
        read_video(name)


def test_protocol_names_of_real_files_stay_file_names(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    for name in ("concat:clip.mp4|clip.mp4", "data:,x", "-i.mp4", "a#b 100%?.mp4", "two\nlines.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert len(read_video(name).frames) == 6


def test_audio_alone_and_a_cover_alone_have_no_video(tmp_path: Path) -> None:
    Image.fromarray(marked_frames()[0]).save(tmp_path / "cover.png")
    audio, covered = tmp_path / "audio.m4a", tmp_path / "covered.m4a"
    ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", 1, audio)
    ffmpeg("-i", audio, "-i", tmp_path / "cover.png", "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0",
           "attached_pic", covered)  # fmt: skip
    assert refusal(audio) == "no video stream in it (only audio)"
    assert refusal(covered) == "no video stream in it (only audio, cover picture)"


def test_places_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert refusal(tmp_path / "fifo.mp4").startswith("is not a regular file")
    assert refusal("/dev/zero").startswith("is not a regular file")
    assert "symbolic links" in refusal(tmp_path / "loop.mp4")
    assert refusal(tmp_path / "folder.mp4").startswith("holds no images")
    assert refusal(tmp_path / "none.mp4") == "no such file"
    assert refusal("a\0b") == "embedded null byte"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.png"])
def test_no_permission(tmp_path: Path, name: str) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / name).chmod(0)
    with as_nobody():
        assert "ermission" in refusal(tmp_path / name)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="no files that are made up as they are read"
)
@pytest.mark.parametrize("suffix", [".mp4", ".png"])
def test_a_file_that_is_made_up_as_it_is_read_is_empty(tmp_path: Path, suffix: str) -> None:
    """Symptom: /proc/kmsg, a regular file of no bytes, was read until a line came: for ever."""
    link = tmp_path / f"clip{suffix}"
    link.symlink_to("/proc/self/status")
    with pytest.raises(VideoReadError, match=r"is empty \(0 bytes\)"):
        read_video(link)
