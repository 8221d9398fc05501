"""Clips come out as they went in: count, size, rate, colours, tags; or the file does not come out at all."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_diffusion.io import CODECS, VideoWriteError, read_tags, read_video, working_codecs, write_video
from video_diffusion.io.video_formats import check_clip, choose_encoding, frame_times, timing_note


def smooth_clip(num_frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        [np.sin((x + 3 * t) / 17), np.cos((y + 2 * t) / 23), np.sin((x + y + t) / 31)]
        for t in range(num_frames)
    ]
    return np.rint(127 + 100 * np.moveaxis(np.array(waves), 1, -1)).astype(np.uint8)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-12, np.mean((one.astype(float) - two) ** 2))))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name, codec, coded_as, pixel_format",
    [
        ("clip.mp4", None, "h264", "yuv420p"),
        ("clip.MP4", None, "h264", "yuv420p"),
        ("clip.mov", None, "h264", "yuv420p"),
        ("clip.mkv", None, "h264", "yuv420p"),
        ("clip.webm", None, "vp9", "yuv420p"),
        ("clip.mp4", "libvpx-vp9", "vp9", "yuv420p"),
        ("clip.mp4", "libsvtav1", ("libdav1d", "av1"), "yuv420p"),
    ],
)
def test_count_size_rate_and_colour_tags(
    tmp_path: Path, name: str, codec: str | None, coded_as: str | tuple[str, ...], pixel_format: str
) -> None:
    frames, fps = smooth_clip(), Fraction(30000, 1001)
    write_video(tmp_path / name, frames, fps, codec=codec)
    assert names(tmp_path) == {name}
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert context.name in coded_as
        assert (context.pix_fmt, context.width, context.height) == (pixel_format, 64, 48)
        assert stream.average_rate == fps
        # AVCOL_RANGE_MPEG, and BT.709 for matrix, primaries and transfer are all 1
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]
        assert float(stream.start_time or 0) == 0
        assert sum(1 for _ in container.decode(stream)) == 5
    assert psnr(read_video(tmp_path / name).frames, frames) > 38


def test_colours_are_converted_as_they_are_tagged(tmp_path: Path) -> None:
    """The stored planes hold the BT.709 limited-range formula of each colour, rounded."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 120, 30], [128, 128, 128]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None, :], (5, 16, 24, 3)).copy()
    write_video(tmp_path / "clip.mp4", frames, Fraction(8), crf=0)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stored = [frame.to_ndarray() for frame in container.decode(video=0)]
    for planes, (red, green, blue) in zip(stored, colours / 255, strict=True):
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        expected = 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748
        found = planes[:16].mean(), planes[16:20].mean(), planes[20:24].mean()
        assert np.abs(np.subtract(found, expected)).max() <= 0.6


def test_chroma_is_sampled_where_the_tag_says(tmp_path: Path) -> None:
    """A ramp of colour from left to right comes back without the half-pixel shift of ffmpeg's default."""
    ramp = np.linspace(40, 215, 64)
    frame = np.stack([ramp, 255 - ramp, np.full(64, 128.0)], -1)
    frames = np.rint(np.broadcast_to(frame, (3, 32, 64, 3))).astype(np.uint8)
    write_video(tmp_path / "clip.mp4", frames, Fraction(8), crf=0)
    error = read_video(tmp_path / "clip.mp4").frames.astype(float) - frames
    assert np.abs(error[:, :, 4:-4].mean((0, 1, 2))).max() < 0.35
    assert psnr(read_video(tmp_path / "clip.mp4").frames, frames) > 46


@pytest.mark.parametrize(
    "name, codec", [("clip.mp4", "libx264rgb"), ("clip.mkv", "libx264rgb"), ("frames/", None)]
)
def test_lossless_formats_give_the_very_bytes_back(tmp_path: Path, name: str, codec: str | None) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 34, 46, 3), dtype=np.uint8)
    write_video(f"{tmp_path}/{name}", frames, Fraction(8), codec=codec)
    assert np.array_equal(read_video(tmp_path / name).frames, frames)


@pytest.mark.parametrize("size", [(31, 48), (48, 31), (1, 1), (7, 9)])
def test_odd_sizes_are_refused_or_kept_in_444(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = smooth_clip(3, *size)
    with pytest.raises(ValueError, match=r"has an odd side.*pixel_format yuv444p"):
        write_video(tmp_path / "clip.mp4", frames, Fraction(8))
    assert names(tmp_path) == set()
    write_video(tmp_path / "clip.mp4", frames, Fraction(8), pixel_format="yuv444p")
    assert read_video(tmp_path / "clip.mp4").frames.shape == frames.shape


def test_gif_keeps_every_frame_and_the_rate_on_average(tmp_path: Path) -> None:
    frames = np.concatenate([smooth_clip(10), smooth_clip(1).repeat(3, 0)])  # equal neighbours too
    write_video(tmp_path / "clip.gif", frames, Fraction(24))
    video = read_video(tmp_path / "clip.gif")
    assert len(video.frames) == 13
    assert abs(video.timestamps[-1] - Fraction(12, 24)) <= Fraction(1, 100)
    assert psnr(video.frames, frames) > 30
    assert timing_note(choose_encoding("clip.gif"), Fraction(24)) is not None
    assert timing_note(choose_encoding("clip.gif"), Fraction(25)) is None


def test_webp_keeps_the_timing_and_merges_equal_neighbours(tmp_path: Path) -> None:
    frames = smooth_clip(7)
    write_video(tmp_path / "clip.webp", frames, Fraction(24))
    video = read_video(tmp_path / "clip.webp")
    assert len(video.frames) == 7 and abs(video.timestamps[-1] - Fraction(6, 24)) <= Fraction(1, 1000)
    assert psnr(video.frames, frames) > 38
    write_video(tmp_path / "still.webp", frames[[0, 0, 0, 3, 3]], Fraction(10))
    assert read_video(tmp_path / "still.webp").timestamps == (Fraction(0), Fraction(3, 10))


@settings(deadline=None, max_examples=12)
@given(
    num_frames=st.integers(1, 6),
    half_size=st.tuples(st.integers(4, 24), st.integers(4, 24)),
    fps=st.fractions(Fraction(1, 10), 240, max_denominator=1001),
    suffix=st.sampled_from([".mp4", ".mkv", ".webm"]),
)
def test_any_count_size_and_rate_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    num_frames: int,
    half_size: tuple[int, int],
    fps: Fraction,
    suffix: str,
) -> None:
    frames = smooth_clip(num_frames, 2 * half_size[0], 2 * half_size[1])
    path = tmp_path_factory.mktemp("clips") / f"clip{suffix}"
    write_video(path, frames, fps)
    video = read_video(path)
    assert video.frames.shape == frames.shape
    clock = Fraction(1, 90_000) if suffix == ".mp4" else Fraction(1, 1000)
    assert all(abs(time - index / fps) <= clock for index, time in enumerate(video.timestamps))
    if suffix == ".mp4" and num_frames > 1:
        assert video.fps == fps


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


@pytest.mark.parametrize(
    "path, options, expected",
    [
        ("clip.avi", {}, r"'\.avi'.*use \.mp4, \.mov, \.mkv, \.webm, \.gif, \.webp, or end the name in /"),
        ("clip.xyz", {}, r"names no format \('\.xyz'\)"),
        ("clip", {}, r"names no format \(no suffix\)"),
        ("clip.mp4", {"codec": "h264_nvenc"}, r"codec is one of libx264, .*\(given 'h264_nvenc'\)"),
        ("clip.webm", {"codec": "libx264"}, r"codec libx264 does not go into \.webm; it goes into \.mp4"),
        ("clip.mp4", {"codec": "png"}, r"codec png does not go into \.mp4; it goes into a folder"),
        ("clip.mp4", {"crf": 99}, r"crf for libx264 is from 0 \(best\) to 51 \(given 99\)"),
        ("clip.mp4", {"crf": -1}, r"crf for libx264 is from 0"),
        ("clip.gif", {"crf": 18}, "crf has no meaning for gif"),
        ("clip.mp4", {"pixel_format": "yuv410p"}, "pixel_format for libx264 is yuv420p, yuv444p"),
        ("clip.gif", {"pixel_format": "yuv420p"}, "pixel_format for gif is its own only"),
    ],
)
def test_impossible_choices_name_the_possible_ones(
    path: str, options: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        choose_encoding(path, **options)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    "path, size, fps, expected",
    [
        ("clip.webp", (16384, 16), Fraction(8), "larger than webp holds"),
        ("clip.gif", (16, 16), Fraction(60), "fps for gif is above 0 and at most 50"),
        ("clip.mp4", (16, 16), Fraction(0), "fps for libx264 is above 0"),
    ],
)
def test_clips_a_format_cannot_hold(path: str, size: tuple[int, int], fps: Fraction, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_clip(choose_encoding(path), *size, fps)


def test_no_frames_are_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 frames"):
        write_video(tmp_path / "clip.mp4", np.zeros((0, 16, 24, 3), np.uint8), Fraction(8))


@settings(deadline=None)
@given(st.integers(1, 400), st.fractions(Fraction(1, 10), 240, max_denominator=1001))
def test_rounded_frame_times_never_drift(num_frames: int, fps: Fraction) -> None:
    times = frame_times(num_frames, fps, 1000)
    assert times[0] == 0 and len(times) == num_frames + 1
    assert all(
        abs(Fraction(time, 1000) - index / fps) <= Fraction(1, 2000) for index, time in enumerate(times)
    )


def test_every_codec_of_the_table_works_here() -> None:
    assert working_codecs() == dict.fromkeys(CODECS)


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


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux"
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "frames/"])
def test_on_a_full_disk_nothing_is_left(tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount: {mounted.stderr.decode().strip()}")
    try:
        (disk / "old.mp4").write_bytes(b"old")
        frames = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
        with pytest.raises(OSError) as caught:
            write_video(f"{disk}/{name}", frames, Fraction(8))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(disk / name))
        assert names(disk) == {"old.mp4"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_kill_9_while_encoding_never_leaves_a_finished_name(tmp_path: Path) -> None:
    program = """
import sys, numpy as np
from fractions import Fraction
from video_diffusion.io import write_video
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
