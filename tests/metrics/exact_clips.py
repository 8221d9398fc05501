"""Clips whose true flow is known, so that every measure of them can be worked out with pencil and paper."""

import numpy as np
import pytest

from video_diffusion.metrics import measure

LENGTHS = [3, 4, 17, pytest.param(64, marks=pytest.mark.full)]
SIZES = [(48, 64), (131, 97), pytest.param((256, 256), marks=pytest.mark.slow)]
every_length = pytest.mark.parametrize("num_frames", LENGTHS)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")


def picture(height, width, low=60, high=190):
    """Smooth random texture with room above and below."""
    rough = np.random.default_rng(1).standard_normal((height, width, 3))
    for axis in (0, 1):
        rough = rough + np.roll(rough, 1, axis) + np.roll(rough, 2, axis)
    rough = (rough - rough.min()) / np.ptp(rough)
    return np.rint(low + (high - low) * rough).astype(np.uint8)


def still(offsets, size):
    """A still picture, each frame brighter by its whole number of levels."""
    return (picture(*size).astype(int) + np.array(offsets)[:, None, None, None]).astype(np.uint8)


def measure_still(frames, **settings):
    """Measure with the true flow of a still picture, which is zero."""
    zero = np.zeros((len(frames) - 1, *frames.shape[1:3], 2), np.float32)
    return measure(frames, 8, flow=(zero, zero), **settings)


def values(report):
    return {name: measure.value for name, measure in report.values.items()}


def sliding(positions, size):
    """A camera that stands at whole-pixel (x, y) positions over a large picture, with its true flow."""
    positions = np.array(positions)
    positions = positions - positions.min(axis=0)
    height, width = size
    scene = picture(height + positions[:, 1].max(), width + positions[:, 0].max())
    frames = np.stack([scene[y : y + height, x : x + width] for x, y in positions])
    forward = np.tile(-np.diff(positions, axis=0)[:, None, None, :].astype(np.float32), (1, height, width, 1))
    return frames, (forward, -forward)
