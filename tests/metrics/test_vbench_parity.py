"""`raw_flicker` against VBench's published temporal-flickering formula, on frames and on files."""

from fractions import Fraction
from functools import cache
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.video import read_video, write_video

# 9 distortions at 4 strengths: 36 clips, on three textures and three motions in turn
CASES = [(name, rung) for name in DISTORTIONS for rung in (0, 2, 4, 6)]


@cache
def clip(name, rung):
    kinds = [("waves", "pan"), ("bricks", "zoom"), ("pebbles", "rotation")]
    texture, motion = kinds[CASES.index((name, rung)) % 3]
    clean = clean_clip(texture, motion, 2, 16, 32, 40).frames
    return DISTORTIONS[name].apply(clean, DISTORTIONS[name].strengths[rung])


def vbench(frames, dtype):
    """(255 − mean over pairs of the mean absolute difference) / 255: vbench/temporal_flickering.py."""
    frames = [np.array(frame, dtype=dtype) for frame in frames]
    errors = [np.mean(cv2.absdiff(first, second)) for first, second in pairwise(frames)]
    return (255.0 - np.mean(errors).item()) / 255.0


def ours(frames):
    measured = measure(frames, 8, metrics=["raw_flicker"]).values["raw_flicker"]
    return measured.details["vbench_temporal_flickering"]


def test_vbenchs_number_is_theirs_across_a_cut_and_on_held_frames_which_ours_leave_out():
    shots = [clean_clip(texture, "pan", 3, 8, 48, 64).frames for texture in ("waves", "bricks")]
    cut = np.concatenate(shots)
    held = np.repeat(shots[0], 3, axis=0)
    for frames in (cut, held):
        assert ours(frames) == pytest.approx(vbench(frames, np.float64), abs=1e-9)
        assert 1 - measure(frames, 8).values["raw_flicker"].value != pytest.approx(ours(frames), abs=1e-3)


def opencv_frames(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


@pytest.mark.full
@pytest.mark.parametrize(("name", "rung"), CASES)
def test_parity_on_frames_and_on_a_lossless_file(name, rung, tmp_path):
    frames = clip(name, rung)
    assert ours(frames) == pytest.approx(vbench(frames, np.float64), abs=1e-9)
    assert ours(frames) == pytest.approx(vbench(frames, np.float32), abs=1e-6)
    path = tmp_path / "clip.mp4"
    write_video(path, frames, Fraction(8), codec="libx264rgb")
    assert ours(read_video(path).frames) == pytest.approx(vbench(opencv_frames(path), np.float32), abs=1e-6)


@pytest.mark.parametrize(("name", "rung"), CASES[::6])
def test_parity_on_an_h264_file_whose_colours_are_converted_as_opencv_converts_them(name, rung, tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, clip(name, rung), Fraction(8))
    with av.open(str(path)) as container:
        fast = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    reference = vbench(opencv_frames(path), np.float32)
    assert ours(fast) == pytest.approx(reference, abs=1e-6)
    # Our reader rounds accurately and interpolates chroma, OpenCV does neither: the same file, other pixels.
    assert ours(read_video(path).frames) == pytest.approx(reference, abs=0.01)
