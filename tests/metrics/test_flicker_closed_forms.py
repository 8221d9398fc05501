"""The flicker and warping measures of a still picture that changes by known numbers of levels."""

import math

import numpy as np
import pytest
from exact_clips import every_length, every_size, measure_still, still, values

from video_diffusion.metrics.morph import psnr

FLICKER = ("raw_flicker", "flicker", "luma_flicker")


@every_size
@every_length
def test_frozen_clip_is_static_in_everything_and_perfect_in_nothing_that_would_let_it_win(num_frames, size):
    report = measure_still(still([0] * num_frames, size), window_starts=[1])
    expected = {"raw_flicker": 0, "flicker": 0, "luma_flicker": 0, "warp_psnr": 100, "warp_ssim": 1}
    expected |= {"coverage": 1, "drift": 0, "motion": 0, "flow_jitter": 0, "duplicate_pairs": num_frames - 1}
    for name, value in expected.items():
        assert report.values[name].value == pytest.approx(value, abs=1e-6), name
        assert report.values[name].status == "static", name
    assert report.values["luma_spectrum"].status == ("static" if num_frames >= 8 else "too_short")
    assert report.values["duplicate_pairs"].details["longest_freeze"] == num_frames


@every_size
@every_length
def test_alternation_by_a_levels(num_frames, size):
    a = 8
    metrics = ("raw_flicker", "flicker", "luma_flicker", "warp_psnr", "drift", "luma_spectrum")
    report = measure_still(still(np.where(np.arange(num_frames) % 2, a, -a), size), metrics=metrics)
    got = values(report)
    assert got["raw_flicker"] == pytest.approx(2 * a / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(a, rel=1e-6)
    assert report.values["flicker"].details["undithered"] == pytest.approx(a, rel=1e-5)
    assert got["luma_flicker"] == pytest.approx(a, rel=1e-6)
    assert report.values["luma_flicker"].details["cells_rms"] == pytest.approx(a, rel=1e-5)
    assert report.values["luma_flicker"].details["max_cell"] == pytest.approx(a, rel=1e-5)
    assert got["warp_psnr"] == pytest.approx(20 * math.log10(255 / (2 * a)), abs=1e-4)
    assert got["warp_psnr"] == pytest.approx(24.05, abs=0.005)
    assert got["drift"] == pytest.approx(0, abs=1e-9)
    if num_frames >= 8:
        assert got["luma_spectrum"] >= 0.99
        assert report.values["luma_spectrum"].details["cells_share"] >= 0.99


@pytest.mark.full
@every_size
@every_length
def test_ramp_of_r_levels_per_frame(num_frames, size):
    r = 1
    metrics = ("raw_flicker", "flicker", "luma_flicker", "drift", "luma_spectrum")
    report = measure_still(still(np.arange(num_frames) * r - num_frames // 2, size), metrics=metrics)
    got = values(report)
    assert got["raw_flicker"] == pytest.approx(r / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(0, abs=1e-6)
    assert got["luma_flicker"] == pytest.approx(0, abs=1e-9)
    assert got["drift"] == pytest.approx(r, rel=1e-9)
    assert report.values["drift"].details["chroma"] == pytest.approx(0, abs=1e-9)
    assert report.values["luma_spectrum"].status == ("static" if num_frames >= 8 else "too_short")


@pytest.mark.full
@every_size
@pytest.mark.parametrize("num_frames", [17, 64])
def test_one_flash_of_a_levels(num_frames, size):
    a = 20
    got = values(measure_still(still(a * (np.arange(num_frames) == 5), size), metrics=FLICKER))
    assert got["raw_flicker"] == pytest.approx(2 * a / (num_frames - 1) / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(a / (num_frames - 2), rel=1e-6)
    assert got["luma_flicker"] == pytest.approx(a / 4 * math.sqrt(6 / (num_frames - 2)), rel=1e-6)


@pytest.mark.parametrize(("num_frames", "quarters"), [(3, 2), (4, 3)])
def test_one_flash_in_a_clip_too_short_to_hold_all_three_of_its_triples(num_frames, quarters):
    got = values(measure_still(still(20 * (np.arange(num_frames) == 1), (48, 64)), metrics=FLICKER))
    assert got["flicker"] == pytest.approx(20 * quarters / 4 / (num_frames - 2), rel=1e-6)


@pytest.mark.full
@every_size
@pytest.mark.parametrize("num_frames", [4, 17, 64])
def test_step_of_a_levels(num_frames, size):
    a = 12
    got = values(measure_still(still(a * (np.arange(num_frames) >= 2), size), metrics=FLICKER))
    assert got["raw_flicker"] == pytest.approx(a / (num_frames - 1) / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(a / (2 * (num_frames - 2)), rel=1e-6)


@pytest.mark.full
@every_size
def test_sine_of_amplitude_a(size):
    a, f = 40, 0.2137
    offsets = np.rint(a * np.sin(2 * np.pi * f * np.arange(64))).astype(int)
    got = values(measure_still(still(offsets, size), metrics=FLICKER))
    assert got["raw_flicker"] * 255 == pytest.approx(4 * a / math.pi * abs(math.sin(math.pi * f)), rel=0.03)
    assert got["flicker"] == pytest.approx(2 / math.pi * a * math.sin(math.pi * f) ** 2, rel=0.03)
    assert got["luma_flicker"] == pytest.approx(a * math.sin(math.pi * f) ** 2 / math.sqrt(2), rel=0.03)


@pytest.mark.full
@every_size
@every_length
def test_independent_noise_of_sigma(num_frames, size):
    sigma = 12
    noise = np.random.default_rng(2).normal(0, sigma, (num_frames, *size, 3))
    got = values(measure_still(np.rint(128 + noise).astype(np.uint8), metrics=FLICKER))
    rounded = math.hypot(sigma, math.sqrt(1 / 12))
    assert got["raw_flicker"] * 255 == pytest.approx(2 * rounded / math.sqrt(math.pi), rel=0.015)
    assert got["flicker"] == pytest.approx(0.4886 * rounded, rel=0.015)


@every_length
def test_a_quarter_of_the_picture_alternating_by_a_levels(num_frames):
    a, signs = 16, np.where(np.arange(num_frames) % 2, 1, -1)
    frames = still([0] * num_frames, (48, 64)).astype(int)
    frames[:, :24, :32] += a * signs[:, None, None, None]
    report = measure_still(frames.astype(np.uint8), metrics=FLICKER)
    assert report.values["flicker"].value == pytest.approx(a / 4, rel=1e-6)
    assert report.values["luma_flicker"].value == pytest.approx(a / 4, rel=1e-6)
    assert report.values["luma_flicker"].details["cells_rms"] == pytest.approx(a / 2, rel=1e-5)
    assert report.values["luma_flicker"].details["max_cell"] == pytest.approx(a, rel=1e-5)


def test_psnr_is_capped():
    assert psnr(0.0) == 100
    assert psnr(255.0**2) == 0


def test_a_dither_pattern_that_jumps_is_flicker_of_its_own_but_hardly_undithered():
    """A chequer of ±6 levels that turns over in every frame, as the pattern of a palette does."""
    chequer = np.where(np.indices((48, 64)).sum(axis=0) % 2, 6, -6)[..., np.newaxis]
    signs = np.where(np.arange(8) % 2, 1, -1)[:, None, None, None]
    flicker = measure_still((still([0] * 8, (48, 64)) + signs * chequer).astype(np.uint8)).values["flicker"]
    assert flicker.value == pytest.approx(6, rel=1e-6)
    assert flicker.details["undithered"] < 0.05
