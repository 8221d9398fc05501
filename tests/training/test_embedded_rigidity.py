"""Rigidity of outlines: next to none missing in rendered clips, and told apart by size of the fault."""

import cv2
import numpy as np
import pytest
from embedded.rigidity import rigidity
from jaxtyping import UInt8

from video_diffusion.procedural import Scene, SceneObject, render_scenes

MOTIONS = ("still", "right", "down-left", "growing", "shrinking", "rotating", "bouncing")


def clip(scene: Scene) -> UInt8[np.ndarray, "f h w 3"]:
    frames = render_scenes([scene], [4], 12, 64, 64)[0]
    return (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()


def scene(shape: str, motion: str) -> Scene:
    return Scene("gray", (SceneObject("yellow", shape, "large", motion),))


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("shape", ["square", "triangle"])
def test_rendered_clips_are_rigid(shape: str, motion: str) -> None:
    found = rigidity(clip(scene(shape, motion)), scene(shape, motion))
    assert found is not None
    assert found.num_seen == 12
    assert found.iou > 0.97
    assert found.outline_error < 0.15
    assert found.jitter is None or found.jitter < 0.1
    assert found.area_cv is None or found.area_cv < 0.01


def test_another_shape_or_growth_than_asked_counts_as_error() -> None:
    circles = clip(scene("circle", "right"))
    right, wrong = rigidity(circles, scene("circle", "right")), rigidity(circles, scene("square", "right"))
    assert right is not None
    assert wrong is not None
    assert wrong.outline_error > 10 * right.outline_error
    assert wrong.area_cv == right.area_cv
    grown = rigidity(circles, scene("circle", "growing"))
    assert grown is not None
    assert grown.iou < 0.85


def test_outlines_that_breathe_are_jitter_in_pixels() -> None:
    asked = Scene("black", (SceneObject("yellow", "square", "large", "still"),))
    frames = clip(asked)
    breathing = frames.copy()
    breathing[::2] = [cv2.dilate(frame, np.ones((3, 3), np.uint8)) for frame in frames[::2]]
    found = rigidity(breathing, asked)
    assert found is not None
    assert found.jitter == pytest.approx(1.0, abs=0.2)  # one pixel on every side, and a bit for the corners
    assert found.area_cv is not None
    assert found.area_cv > 0.05


def test_frames_without_an_object_are_counted() -> None:
    frames = clip(scene("circle", "left")).copy()
    frames[5:7] = frames[0, 0, 0]
    found = rigidity(frames, scene("circle", "left"))
    assert found is not None
    assert found.num_seen == 10
    assert rigidity(np.full_like(frames, 128), scene("circle", "left")) is None
