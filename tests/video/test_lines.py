"""Lines drawn of a video for ControlNets."""

import cv2
import numpy as np
import pytest

from video_diffusion.video.images import draw_lines


def square(brightness: int, left: int = 20) -> np.ndarray:
    frame = np.full((48, 64, 3), 10, np.uint8)
    frame[12:36, left : left + 20] = brightness
    return frame


def test_canny_edges_are_opencvs_of_each_frame() -> None:
    frames = np.stack([square(200), square(200, 30)])
    lines = draw_lines(frames, "canny")
    assert lines.shape == frames.shape and set(np.unique(lines)) == {0, 255}
    for frame, drawn in zip(frames, lines, strict=True):
        expected = cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 100, 200)
        assert all(np.array_equal(drawn[..., channel], expected) for channel in range(3))


def test_soft_lines_lie_on_edges_and_are_as_strong_as_these_over_the_whole_clip() -> None:
    lines = draw_lines(np.stack([square(210), square(110)]), "soft")[..., 0].astype(int)
    assert lines[0, 24, 20] > 200 and lines[0, 24, 30] == 0 == lines[0, 2, 2]
    assert lines[1, 24, 20] == pytest.approx(lines[0, 24, 20] / 2, abs=2)
    assert len(np.unique(lines)) > 10


@pytest.mark.parametrize("kind", ["canny", "soft"])
def test_a_flat_clip_has_no_lines(kind: str) -> None:
    assert not draw_lines(np.full((2, 16, 24, 3), 99, np.uint8), kind).any()
