"""Clips come out of every format as they went in: count, size, rate, colours."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from folder_names import names
from hypothesis import given, settings
from hypothesis import strategies as st
from smooth_clips import psnr, smooth_clip

from video_diffusion.video import CODECS, read_video, working_codecs, write_video
from video_diffusion.video.writer import choose_encoding, frame_times, timing_note


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
