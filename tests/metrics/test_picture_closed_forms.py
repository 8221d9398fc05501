"""Mean luma and sharpness of a wedge of colour."""

import math

import numpy as np
import pytest
from exact_clips import measure_still

from video_diffusion.metrics import measure


def test_mean_luma_and_sharpness_of_a_colour_wedge():
    wedge = np.zeros((3, 20, 40, 3), np.uint8)
    wedge[..., 0] = 5 * np.arange(40)
    report = measure_still(wedge)
    assert report.values["mean_luma"].value == pytest.approx(0.299 * 5 * 19.5, rel=1e-9)
    slopes = np.full(40, 5 * 0.299)
    slopes[[0, -1]] /= 2  # central difference with the edge repeated
    assert report.values["sharpness"].value == pytest.approx(math.sqrt(np.mean(slopes**2)), rel=1e-5)


def test_sharpness_of_what_stays_loses_restless_texture_and_keeps_detail_that_moves():
    """Noise drawn anew is averaged with weights 1/4, 1/2, 1/4: √(6/16) of its gradient stays."""
    rng = np.random.default_rng(0)

    def grey(level: float, *shape: int) -> np.ndarray:
        values = 128 + level * rng.normal(size=(*shape, 1))
        return values.clip(0, 255).round().astype(np.uint8).repeat(3, axis=-1)

    values = measure_still(grey(12, 7, 48, 64)).values
    share = values["steady_sharpness"].value / values["sharpness"].value
    assert share == pytest.approx(math.sqrt(6 / 16), rel=0.03)
    texture = grey(40, 48, 80)
    still = measure_still(texture[np.newaxis, :, :64].repeat(7, axis=0)).values
    assert still["steady_sharpness"].value == pytest.approx(still["sharpness"].value, rel=1e-6)
    panned = np.stack([texture[:, 2 * at : 2 * at + 64] for at in range(7)])
    left = np.zeros((6, 48, 64, 2), np.float32)
    left[..., 0] = -2
    moving = measure(panned, 8, flow=(left, -left)).values
    assert moving["steady_sharpness"].value == pytest.approx(moving["sharpness"].value, rel=2e-3)
