"""Periodograms of waves whose power and frequency are known, and the bands that flicker falls in."""

import numpy as np
import pytest
from exact_clips import still

from video_diffusion.metrics import measure
from video_diffusion.metrics.flicker import periodogram


@pytest.mark.parametrize("num_frames", [9, 17, 65])
def test_boxcar_periodogram_has_the_power_of_the_alternation(num_frames):
    a = 3.0
    series = np.where(np.arange(num_frames) % 2, a, -a)[:, np.newaxis]
    power = periodogram(series, window="boxcar", detrend="constant")
    assert power.sum() == pytest.approx(a**2 * (1 - 1 / num_frames**2), rel=1e-12)
    assert power[0] == pytest.approx(0, abs=1e-20)


def test_hann_periodogram_puts_a_sine_at_its_frequency_with_its_power():
    series = 5 * np.sin(2 * np.pi * 10 * np.arange(64) / 64)[:, np.newaxis]
    power = periodogram(series)[:, 0]
    assert power.argmax() == 10
    assert power.sum() == pytest.approx(25 / 2, rel=2e-3)
    assert power[9:12].sum() == pytest.approx(power.sum(), rel=2e-3)


def test_spectrum_names_the_band_that_a_slow_and_a_fast_flicker_are_in():
    for hertz, band in [(1, "below_3_hz"), (5, "3_to_10_hz"), (11, "above_10_hz")]:
        offsets = np.rint(20 * np.sin(2 * np.pi * hertz * np.arange(48) / 24)).astype(int)
        zero = np.zeros((47, 16, 20, 2), np.float32)
        report = measure(still(offsets, (16, 20)), 24, metrics=["luma_spectrum"], flow=(zero, zero))
        details = report.values["luma_spectrum"].details
        assert details[band] > 0.97 * details["power"]
        assert (report.values["luma_spectrum"].value > 0.9) == (hertz > 6)
