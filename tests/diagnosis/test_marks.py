"""Where a clip is at its worst, on clips whose worst frame and place are known."""

import base64
import io
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image

from video_diffusion.diagnosis.marks import Box, colour_shift, hottest_box, mark_worst
from video_diffusion.metrics.drift import Drift, histogram_distance
from video_diffusion.metrics.views import Frame

FPS = Fraction(8)


def textured(num_frames: int = 10) -> np.ndarray:
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(60, 190, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.float32)
    return cv2.GaussianBlur(base, (0, 0), 2).astype(np.uint8)[None].repeat(num_frames, 0)


def test_the_frame_and_the_corner_that_flicker_are_marked() -> None:
    frames = textured()
    frames[6, 44:60, 72:92] += 40  # at the bottom right, in the seventh frame alone
    mark = next(mark for mark in mark_worst(frames, FPS) if mark.name == "flicker")
    worst = mark.frames[0]
    assert (worst.frame, worst.place) == (7, "at the bottom right")
    assert mark.words.startswith("Flicker is largest at frame 7 of 10, at the bottom right: ")
    assert {each.frame for each in mark.frames[1:]} <= {6, 8}
    box = worst.box
    assert box.x >= 68 and box.y >= 40 and box.x + box.width <= 96 and box.y + box.height <= 64
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(worst.image.partition(",")[2]))).convert("RGB"))
    assert image.shape == (64, 96, 3)
    warm = image[..., 0].astype(int) - image[..., 2] > 60
    assert warm[46:58, 74:90].mean() > 0.8
    assert warm[:36].mean() == 0  # grey where nothing flickers


def test_edges_that_go_to_and_fro_are_marked_as_morph() -> None:
    frames = np.full((10, 64, 96, 3), 200, np.uint8)
    for index, frame in enumerate(frames):
        wobble = 2 * (index % 2) if 3 <= index <= 6 else 0
        cv2.rectangle(frame, (8 - wobble, 20), (22 + wobble, 44), (40, 60, 160), -1)
    mark = next(mark for mark in mark_worst(frames, FPS) if mark.name == "morph")
    assert 3 <= mark.frames[0].frame <= 8
    assert mark.frames[0].place == "at the left"


def test_colours_that_leave_are_marked_as_drift_by_the_distance_that_drift_measures() -> None:
    frames = textured(8)
    for index in range(8):
        frames[index, :30, :40] += np.uint8(4 * index)
    mark = next(mark for mark in mark_worst(frames, FPS) if mark.name == "drift")
    assert mark.frames[0].frame == 8
    looks = [Drift().look(Frame(index, index / 8, frames[index])) for index in (0, 7)]
    assert mark.frames[0].value == pytest.approx(sum(histogram_distance(*looks)), rel=1e-5)
    assert colour_shift(np.roll(frames[0], 5, axis=1), frames[0]).max() == 0  # what moves is no drift


def test_a_clip_without_any_of_it_has_no_marks() -> None:
    assert mark_worst(np.full((6, 32, 32, 3), 90, np.uint8), FPS) == ()
    assert mark_worst(textured(1), FPS) == ()


def test_a_box_is_around_what_touches_the_hottest_place() -> None:
    heat = np.zeros((64, 64), np.float32)
    heat[10:20, 40:50] = 5
    heat[50:60, 4:20] = 4  # warm too, but elsewhere
    box = hottest_box(heat)
    assert Box(38, 8, 14, 14) == box or (abs(box.x - 39) <= 1 and abs(box.y - 9) <= 1 and box.width <= 14)
    assert hottest_box(np.eye(64, dtype=np.float32)[::-1][:8, :].copy()).height >= 5  # never too small to see
