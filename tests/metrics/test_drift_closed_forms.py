"""Drift in levels per frame, and the distance of histograms that it rests on."""

import numpy as np
import pytest
from exact_clips import measure_still, still

from video_diffusion.metrics.drift import Drift, histogram_distance
from video_diffusion.metrics.views import Frame


def test_histogram_distance_of_frames_r_levels_apart_is_r_per_frame():
    portraits = [Drift().look(Frame(0, 0.0, frame)) for frame in still([0, 3, 6, 12], (48, 64))]
    for later, levels in zip(portraits[1:], (3, 6, 12), strict=True):
        assert histogram_distance(portraits[0], later) == pytest.approx((levels, 0), abs=1e-9)


@pytest.mark.full
def test_drift_is_carried_over_many_lags_and_ignores_flicker_of_every_period():
    frames = still(np.arange(70) - 35, (16, 20))
    assert measure_still(frames, metrics=["drift"]).values["drift"].value == pytest.approx(1, rel=1e-9)
    for period in (2, 3, 4, 5):
        flickering = still(6 * (np.arange(70) % period == 0), (16, 20))
        assert measure_still(flickering, metrics=["drift"]).values["drift"].value < 0.1
