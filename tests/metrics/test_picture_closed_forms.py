"""Mean luma and sharpness of a wedge of colour."""

import math

import numpy as np
import pytest
from exact_clips import measure_still


def test_mean_luma_and_sharpness_of_a_colour_wedge():
    wedge = np.zeros((3, 20, 40, 3), np.uint8)
    wedge[..., 0] = 5 * np.arange(40)
    report = measure_still(wedge)
    assert report.values["mean_luma"].value == pytest.approx(0.299 * 5 * 19.5, rel=1e-9)
    slopes = np.full(40, 5 * 0.299)
    slopes[[0, -1]] /= 2  # central difference with the edge repeated
    assert report.values["sharpness"].value == pytest.approx(math.sqrt(np.mean(slopes**2)), rel=1e-5)
