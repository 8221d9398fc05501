"""Flashes that are counted because they are strong, and changes that are none."""

import numpy as np
import pytest

from video_diffusion.metrics import measure


@pytest.mark.parametrize(("flashes_per_second", "passes"), [(3, 1), (4, 0)])
def test_general_flashes_of_a_fifth_of_the_luminance(flashes_per_second, passes):
    fps = 24
    bright = (
        np.floor(np.arange(2 * fps) * 2 * flashes_per_second / fps) % 2
    )  # one rise and one fall per flash
    code = [round(255 * (1.055 * luminance ** (1 / 2.4) - 0.055)) for luminance in (0.3, 0.51)]
    frames = np.where(bright[:, None, None, None], code[1], code[0]) * np.ones((1, 40, 48, 3))
    measured = measure(frames.astype(np.uint8), fps, metrics=["flash_safety"]).values["flash_safety"]
    assert measured.value == flashes_per_second
    assert measured.details["passes"] == passes


@pytest.mark.parametrize(
    ("low", "high", "rows"),
    [(0.3, 0.39, 40), (0.81, 0.95, 40), (0.3, 0.6, 5)],
    ids=["faint", "bright", "small"],
)
def test_changes_too_small_too_bright_or_too_local_are_no_flashes(low, high, rows):
    code = [round(255 * (1.055 * luminance ** (1 / 2.4) - 0.055)) for luminance in (low, high)]
    frames = np.full((24, 40, 48, 3), code[0], np.uint8)
    frames[::2, :rows] = code[1]
    assert measure(frames, 24, metrics=["flash_safety"]).values["flash_safety"].value == 0
