"""The seam excess of a still picture with a known step, and of one without."""

import numpy as np
import pytest
from exact_clips import measure_still, still


@pytest.mark.parametrize("start", [4, 9])
def test_seam_of_a_levels_in_a_still_picture(start):
    a, num_frames = 24, 16
    frames = still(a * (np.arange(num_frames) >= start), (48, 64))
    measured = measure_still(frames, window_starts=[start]).values["seam_excess"]
    assert measured.value == pytest.approx(a, rel=1e-6)
    assert measured.details["p"] == pytest.approx(1 / (num_frames - 1))
    elsewhere = measure_still(frames, window_starts=[start + 3]).values["seam_excess"]
    assert elsewhere.value == pytest.approx(0, abs=1e-6)
    assert elsewhere.details["p"] > 0.5


def test_no_seam_gives_no_excess():
    offsets = np.where(np.arange(16) % 2, 5, -5)
    measured = measure_still(still(offsets, (48, 64)), window_starts=[4, 8, 12]).values["seam_excess"]
    assert measured.value == pytest.approx(0, abs=1e-6)
    assert measured.details["p"] == 1
