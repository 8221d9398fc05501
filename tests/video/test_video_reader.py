"""Clips are read as they are shown: real times, upright; oddities are noted."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from ffmpeg_program import BT709, ffmpeg
from marked_clips import TOP_LEFT, encode, marked_frames

from video_diffusion.video import iter_frames, open_video, read_video


def test_frames_times_rate_and_notes(clip: Path) -> None:
    video = read_video(clip)
    assert video.frames.shape == (6, 32, 48, 3) and video.frames.dtype == np.uint8
    assert video.timestamps == tuple(Fraction(index, 8) for index in range(6))
    assert (video.fps, video.notes) == (Fraction(8), ())
    assert np.abs(video.frames.astype(int) - marked_frames()).mean() < 3


def test_streaming_gives_the_same_and_can_stop_early(clip: Path) -> None:
    frames = iter_frames(clip)
    first = next(frames)
    frames.close()
    assert np.array_equal(first.pixels, read_video(clip).frames[0])
    with open_video(clip) as source:
        assert (source.width, source.height, source.fps, source.declared_frames) == (48, 32, Fraction(8), 6)
        assert [frame.index for frame in source.frames] == list(range(6))


@pytest.mark.parametrize("angle, turns", [(90, 1), (180, 2), (270, 3)])
def test_rotated_phone_videos_are_turned_upright(clip: Path, tmp_path: Path, angle: int, turns: int) -> None:
    """As ffmpeg itself shows them: it turns by default when it re-encodes."""
    rotated, shown = tmp_path / "rotated.mp4", tmp_path / "shown.mp4"
    ffmpeg("-display_rotation", angle, "-i", clip, "-c", "copy", rotated)
    ffmpeg("-i", rotated, "-crf", 0, shown)
    video = read_video(rotated)
    assert np.array_equal(video.frames, np.rot90(read_video(clip).frames, turns, (1, 2)))
    assert video.frames.shape == read_video(shown).frames.shape
    assert np.abs(video.frames.astype(int) - read_video(shown).frames).mean() < 3
    assert any("turned upright" in note for note in video.notes)
    with open_video(rotated) as source:
        assert (source.height, source.width) == video.frames.shape[1:3]


def test_variable_frame_rate_keeps_its_real_times(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 10, 11, 30]
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for tick, pixels in zip(ticks, marked_frames(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(path)
    assert video.timestamps == tuple(Fraction(tick, 30) for tick in ticks)
    assert any("variable frame rate" in note for note in video.notes)


@pytest.mark.parametrize(
    "name, options, note",
    [
        ("sar.mp4", ("-vf", f"{BT709},setsar=4/3"), "pixels are not square (aspect 4/3)"),
        ("alpha.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"), "transparency is dropped"),
        ("woven.mp4", ("-vf", BT709, "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p"), "interlaced"),
    ],
)
def test_oddities_are_noted(tmp_path: Path, name: str, options: tuple[str, ...], note: str) -> None:
    video = read_video(encode(tmp_path / name, marked_frames(6, 64, 48), *options))
    assert any(text.startswith(note) for text in video.notes), video.notes
    assert video.frames.shape == (6, 64, 48, 3)


def test_the_first_of_two_video_streams_is_read_and_said_so(clip: Path, tmp_path: Path) -> None:
    other = encode(tmp_path / "other.mp4", marked_frames(3, 16, 24), "-pix_fmt", "yuv420p")
    ffmpeg("-i", clip, "-i", other, "-map", "0", "-map", "1", "-c", "copy", tmp_path / "two.mp4")
    video = read_video(tmp_path / "two.mp4")
    assert video.frames.shape == (6, 32, 48, 3)
    assert "2 video streams; the first is read" in video.notes


def test_b_frames_and_late_starts_give_times_from_zero(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "late.mkv", marked_frames(), "-bf", 3, "-pix_fmt", "yuv420p", "-output_ts_offset", 5
    )
    video = read_video(path)
    assert video.timestamps[0] == 0 and video.timestamps[-1] == Fraction(5, 8)


def test_an_edit_list_that_hides_frames_is_not_damage(tmp_path: Path) -> None:
    long = encode(tmp_path / "long.mp4", marked_frames(24), "-g", 24, "-bf", 0, "-pix_fmt", "yuv420p")
    ffmpeg("-ss", 1, "-i", long, "-c", "copy", tmp_path / "cut.mp4")
    frames = read_video(tmp_path / "cut.mp4").frames
    assert 15 <= len(frames) <= 17
    assert abs(int(frames[0, 0, 0, 0]) - (TOP_LEFT[0] + 8 * 8) % 256) <= 12
