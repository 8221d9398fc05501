"""What `measure` makes of files that are no clip, and of unusual clips."""

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from ffmpeg_program import ffmpeg
from measured_clips import CLEAN, run
from PIL import Image

from video_diffusion.video import write_video

pytestmark = pytest.mark.usefixtures("clean_and_flickering")


def bad_files():
    """Every kind of file that is no clip, by name, with what must be said of it."""
    Path("empty.mp4").write_bytes(b"")
    Path("text.mp4").write_text("only text\n" * 50)
    Path("playlist.mp4").write_text("#EXTM3U\n#EXTINF:10,\nclean.mp4\n#EXT-X-ENDLIST\n")
    Path("concat.mp4").write_text("ffconcat version 1.0\nfile clean.mp4\n")
    Image.fromarray(CLEAN[0]).save("picture.png")
    Path("renamed.mp4").write_bytes(Path("picture.png").read_bytes())
    write_video("one.mp4", CLEAN[:1], Fraction(8))
    ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", "0.2", "audio.m4a")
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)
    write_video("whole.mp4", noise, Fraction(8))
    Path("cut.mp4").write_bytes(Path("whole.mp4").read_bytes()[:-9000])
    ffmpeg("-i", "clean.mp4", "-c:v", "ffv1", "huge.mkv")
    header = Path(
        "huge.mkv"
    ).read_bytes()  # PixelWidth 64, PixelHeight 48; now the width takes two bytes, 65535
    Path("huge.mkv").write_bytes(header.replace(b"\xb0\x81\x40\xba\x81\x30", b"\xb0\x82\xff\xff\xba\x81", 1))
    os.mkfifo("fifo.mp4")
    Path("folder").mkdir()
    return {
        "empty.mp4": "is empty (0 bytes)",
        "text.mp4": "not a plain video file",
        "playlist.mp4": "not a plain video file",
        "concat.mp4": "not a plain video file",
        "data:,x.mp4": "no such file",
        "renamed.mp4": "not a plain video file",
        "picture.png": "has 1 frame; needs at least 2",
        "one.mp4": "has 1 frame; needs at least 2",
        "audio.m4a": "no video stream in it (only audio)",
        "cut.mp4": "cut off",
        "huge.mkv": "is 65535x",
        "fifo.mp4": "is not a regular file",
        "folder": "holds no images",
        "none.mp4": "no such file",
    }


def test_every_file_that_is_no_clip_has_its_line_and_the_others_are_measured():
    expected = bad_files()
    result = run("clean.mp4", *expected, "flickering.mp4", "-q")
    assert result.exit_code == 1
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == ["clean.mp4", "flickering.mp4"]
    *errors, count = result.stderr.splitlines()
    for (name, reason), line in zip(expected.items(), errors, strict=True):
        assert line.startswith(f"error: {name}"), line
        assert reason in line, line
    assert count == f"{len(expected)} of {len(expected) + 2} clips could not be measured"


def test_what_is_left_of_a_truncated_clip_is_measured_when_asked():
    bad_files()
    result = run("cut.mp4", "--allow-truncated", "--json")
    assert result.exit_code == 0
    assert 2 <= json.loads(result.stdout)["num_frames"] < 24
    assert "cut off" in result.stderr


def odd_files():
    """Unusual clips that are measured, with the note that each deserves (empty for none)."""
    ffmpeg("-i", "clean.mp4", "-vf", "crop=63:47,format=yuv444p", "odd.mkv")
    ffmpeg("-i", "clean.mp4", "-pix_fmt", "yuv420p10le", "-colorspace", "bt709", "ten.mkv")
    ffmpeg("-i", "clean.mp4", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "alpha.webm")
    ffmpeg("-i", "clean.mp4", "-pix_fmt", "yuv420p", "plain.mp4")
    ffmpeg("-display_rotation", 90, "-i", "plain.mp4", "-c", "copy", "rotated.mp4")
    ffmpeg("-i", "clean.mp4", "clip.gif")
    with av.open("vfr.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for tick, pixels in zip([0, 1, 2, 10, 11, 30, 31, 32, 40], CLEAN, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {
        "odd.mkv": "", "ten.mkv": "", "alpha.webm": "transparency is dropped", "clip.gif": "",
        "rotated.mp4": "turned upright", "vfr.mp4": "variable frame rate",
    }  # fmt: skip


@pytest.mark.full
def test_unusual_clips_are_measured_with_a_note_of_what_was_done():
    notes = odd_files()
    result = run(*notes, "--json")
    assert result.exit_code == 0, result.stderr
    facts = {line["path"]: line for line in map(json.loads, result.stdout.splitlines())}
    for name, note in notes.items():
        assert any(note in told for told in facts[name].get("notes", [""])), (name, facts[name])
    assert (facts["odd.mkv"]["width"], facts["odd.mkv"]["height"]) == (63, 47)
    assert (facts["rotated.mp4"]["width"], facts["rotated.mp4"]["height"]) == (48, 64)
    assert facts["vfr.mp4"]["num_frames"] == 9  # the ffmpeg program would have made 41 of them
    assert facts["vfr.mp4"]["metrics"]["duplicate_pairs"]["value"] == 0
    assert facts["vfr.mp4"]["metrics"]["luma_spectrum"]["status"] == "unmeasurable"
    assert facts["ten.mkv"]["metrics"]["flicker"]["value"] < 1
