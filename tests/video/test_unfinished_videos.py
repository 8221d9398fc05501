"""When an encoder, a disk or a signal ends the writing, nothing is left under the clip's name."""

import errno
import resource
import signal
import stat
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from folder_names import names
from small_disk import small_disk
from smooth_clips import smooth_clip

from video_diffusion.video import VideoWriteError, write_video


def test_a_dying_encoder_gives_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho starting >&2\necho 'no such thing as a codec' >&2\nexit 3\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(VideoWriteError, match="failed with status 3: starting / no such thing as a codec"):
        write_video(out / "clip.mp4", smooth_clip(60), Fraction(8))
    fake.write_text("#!/bin/sh\nkill -SEGV $$\n")
    with pytest.raises(VideoWriteError, match="was stopped by SIGSEGV: it said nothing"):
        write_video(out / "clip.mp4", smooth_clip(), Fraction(8))
    assert names(out) == set()


def test_an_encoder_that_loses_frames_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that reports success after half of the frames."""
    import imageio_ffmpeg

    real, fake = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "ffmpeg"
    fake.write_text(
        f"#!{sys.executable}\nimport os, sys\nw = sys.argv[1:]\n"
        f"os.execv({real!r}, [{real!r}, *w[:-1], '-frames:v', '2', w[-1]])\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(VideoWriteError, match=r"2 frames of .* were written, not 5 of"):
        write_video(out / "clip.mp4", smooth_clip(), Fraction(8))
    assert names(out) == set()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "frames/"])
def test_over_the_file_size_limit_nothing_is_left(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            write_video(f"{tmp_path}/{name}", frames, Fraction(8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / name)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "frames/"])
def test_on_a_full_disk_nothing_is_left(tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        (disk / "old.mp4").write_bytes(b"old")
        frames = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
        with pytest.raises(OSError) as caught:
            write_video(f"{disk}/{name}", frames, Fraction(8))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(disk / name))
        assert names(disk) == {"old.mp4"}


def test_kill_9_while_encoding_never_leaves_a_finished_name(tmp_path: Path) -> None:
    program = """
import sys, numpy as np
from fractions import Fraction
from video_diffusion.video import write_video
frames = np.random.default_rng(0).integers(0, 256, (120, 256, 320, 3), dtype=np.uint8)
print("ready", flush=True)
write_video(sys.argv[1], frames, Fraction(24), overwrite=False)
"""
    target = tmp_path / "clip.mp4"
    process = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.25)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    time.sleep(0.3)  # the orphaned encoder ends when its input does
    write_video(target, smooth_clip(), Fraction(24), overwrite=False)
    assert names(tmp_path) == {"clip.mp4"}


def test_ctrl_c_while_encoding_removes_the_part(tmp_path: Path) -> None:
    class Stops(np.ndarray):
        """Frames whose third one is Ctrl-C."""

        def __iter__(self):  # type: ignore[no-untyped-def] # an ndarray's own signature is overloaded
            yield self[0]
            yield self[1]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", smooth_clip().view(Stops), Fraction(8))
    assert names(tmp_path) == set()
