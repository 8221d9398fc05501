"""Every answer that can be worked out with pencil and paper, with the true flow supplied."""

import math

import numpy as np
import pytest

from video_diffusion.metrics import measure
from video_diffusion.metrics.drift import Drift, histogram_distance
from video_diffusion.metrics.luma_spectrum import periodogram
from video_diffusion.metrics.motion import fastest
from video_diffusion.metrics.views import Frame
from video_diffusion.metrics.warp_psnr import psnr

LENGTHS = [3, 4, 17, 64]
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
    report = measure_still(still(np.where(np.arange(num_frames) % 2, a, -a), size))
    got = values(report)
    assert got["raw_flicker"] == pytest.approx(2 * a / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(a, rel=1e-6)
    assert got["luma_flicker"] == pytest.approx(a, rel=1e-6)
    assert report.values["luma_flicker"].details["cells_rms"] == pytest.approx(a, rel=1e-5)
    assert report.values["luma_flicker"].details["max_cell"] == pytest.approx(a, rel=1e-5)
    assert got["warp_psnr"] == pytest.approx(20 * math.log10(255 / (2 * a)), abs=1e-4)
    assert got["warp_psnr"] == pytest.approx(24.05, abs=0.005)
    assert got["drift"] == pytest.approx(0, abs=1e-9)
    if num_frames >= 8:
        assert got["luma_spectrum"] >= 0.99
        assert report.values["luma_spectrum"].details["cells_share"] >= 0.99


@every_size
@every_length
def test_ramp_of_r_levels_per_frame(num_frames, size):
    r = 1
    report = measure_still(still(np.arange(num_frames) * r - num_frames // 2, size))
    got = values(report)
    assert got["raw_flicker"] == pytest.approx(r / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(0, abs=1e-6)
    assert got["luma_flicker"] == pytest.approx(0, abs=1e-9)
    assert got["drift"] == pytest.approx(r, rel=1e-9)
    assert report.values["drift"].details["chroma"] == pytest.approx(0, abs=1e-9)
    assert report.values["luma_spectrum"].status == ("static" if num_frames >= 8 else "too_short")


@every_size
@pytest.mark.parametrize("num_frames", [17, 64])
def test_one_flash_of_a_levels(num_frames, size):
    a = 20
    got = values(measure_still(still(a * (np.arange(num_frames) == 5), size)))
    assert got["raw_flicker"] == pytest.approx(2 * a / (num_frames - 1) / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(a / (num_frames - 2), rel=1e-6)
    assert got["luma_flicker"] == pytest.approx(a / 4 * math.sqrt(6 / (num_frames - 2)), rel=1e-6)


@pytest.mark.parametrize(("num_frames", "quarters"), [(3, 2), (4, 3)])
def test_one_flash_in_a_clip_too_short_to_hold_all_three_of_its_triples(num_frames, quarters):
    got = values(measure_still(still(20 * (np.arange(num_frames) == 1), (48, 64))))
    assert got["flicker"] == pytest.approx(20 * quarters / 4 / (num_frames - 2), rel=1e-6)


@every_size
@pytest.mark.parametrize("num_frames", [4, 17, 64])
def test_step_of_a_levels(num_frames, size):
    a = 12
    got = values(measure_still(still(a * (np.arange(num_frames) >= 2), size)))
    assert got["raw_flicker"] == pytest.approx(a / (num_frames - 1) / 255, rel=1e-12)
    assert got["flicker"] == pytest.approx(a / (2 * (num_frames - 2)), rel=1e-6)


@every_size
def test_sine_of_amplitude_a(size):
    a, f = 40, 0.2137
    got = values(measure_still(still(np.rint(a * np.sin(2 * np.pi * f * np.arange(64))).astype(int), size)))
    assert got["raw_flicker"] * 255 == pytest.approx(4 * a / math.pi * abs(math.sin(math.pi * f)), rel=0.03)
    assert got["flicker"] == pytest.approx(2 / math.pi * a * math.sin(math.pi * f) ** 2, rel=0.03)
    assert got["luma_flicker"] == pytest.approx(a * math.sin(math.pi * f) ** 2 / math.sqrt(2), rel=0.03)


@every_size
@every_length
def test_independent_noise_of_sigma(num_frames, size):
    sigma = 12
    noise = np.random.default_rng(2).normal(0, sigma, (num_frames, *size, 3))
    got = values(measure_still(np.rint(128 + noise).astype(np.uint8)))
    rounded = math.hypot(sigma, math.sqrt(1 / 12))
    assert got["raw_flicker"] * 255 == pytest.approx(2 * rounded / math.sqrt(math.pi), rel=0.015)
    assert got["flicker"] == pytest.approx(0.4886 * rounded, rel=0.015)


@every_length
def test_a_quarter_of_the_picture_alternating_by_a_levels(num_frames):
    a, signs = 16, np.where(np.arange(num_frames) % 2, 1, -1)
    frames = still([0] * num_frames, (48, 64)).astype(int)
    frames[:, :24, :32] += a * signs[:, None, None, None]
    report = measure_still(frames.astype(np.uint8))
    assert report.values["flicker"].value == pytest.approx(a / 4, rel=1e-6)
    assert report.values["luma_flicker"].value == pytest.approx(a / 4, rel=1e-6)
    assert report.values["luma_flicker"].details["cells_rms"] == pytest.approx(a / 2, rel=1e-5)
    assert report.values["luma_flicker"].details["max_cell"] == pytest.approx(a, rel=1e-5)


@every_size
@every_length
def test_pan_by_whole_pixels_with_its_true_flow(num_frames, size):
    frames, flow = sliding([(3 * t, -2 * t) for t in range(num_frames)], size)
    report = measure(frames, 8, flow=flow)
    got = values(report)
    speed = math.hypot(3, 2) * 256 / min(size)
    assert got["motion"] == pytest.approx(speed, rel=1e-6)
    assert report.values["motion"].details["fastest"] == pytest.approx(speed, rel=1e-6)
    assert report.values["motion"].details["per_second"] == pytest.approx(8 * speed, rel=1e-6)
    assert got["flicker"] == pytest.approx(0, abs=1e-6)
    assert got["flow_jitter"] == pytest.approx(0, abs=1e-6)
    assert got["warp_psnr"] == 100
    assert got["warp_ssim"] == pytest.approx(1, abs=1e-6)
    assert got["coverage"] == pytest.approx((size[0] - 2) * (size[1] - 3) / math.prod(size), rel=1e-6)
    assert report.values["coverage"].details["unexplained"] == 0
    assert report.values["flicker"].status == "ok"


@every_size
def test_flow_jitter_of_uneven_speed(size):
    scale = 256 / min(size)
    for speeds, expected in [
        ([4, 2] * 8, 2),  # 3 ± 1 px: 2j
        ([0, 4] * 8, 4),  # 2 px on twos: 2v
        ([1, 1, 0, 2] * 4 + [1], 1),  # every fourth frame shown twice: v
    ]:
        frames, flow = sliding([(x, 0) for x in np.cumsum([0, *speeds])], size)
        assert measure(frames, 8, flow=flow).values["flow_jitter"].value == pytest.approx(
            expected * scale, rel=1e-5
        )


def test_duplicates_are_counted_exactly():
    frames, flow = sliding([(x, 0) for x in (0, 2, 4, 4, 4, 6, 8, 8, 10)], (48, 64))
    frames = frames.copy()
    frames[7, :4, :9, 1] ^= 1  # the pair 6–7 differs by one level in 36 of 9216 numbers: near, not exact
    measured = measure(frames, 8, flow=flow).values["duplicate_pairs"]
    assert measured.value == 3
    assert measured.details == {"exact": 2, "near": 1, "longest_freeze": 3}
    assert measured.series == (None, 0, 0, 1, 1, 0, 0, 1, 0)


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


def test_histogram_distance_of_frames_r_levels_apart_is_r_per_frame():
    portraits = [Drift().look(Frame(0, 0.0, frame)) for frame in still([0, 3, 6, 12], (48, 64))]
    for later, levels in zip(portraits[1:], (3, 6, 12), strict=True):
        assert histogram_distance(portraits[0], later) == pytest.approx((levels, 0), abs=1e-9)


def test_drift_is_carried_over_many_lags_and_ignores_flicker_of_every_period():
    frames = still(np.arange(70) - 35, (16, 20))
    assert measure_still(frames, metrics=["drift"]).values["drift"].value == pytest.approx(1, rel=1e-9)
    for period in (2, 3, 4, 5):
        flickering = still(6 * (np.arange(70) % period == 0), (16, 20))
        assert measure_still(flickering, metrics=["drift"]).values["drift"].value < 0.1


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


def test_mean_luma_and_sharpness_of_a_colour_wedge():
    wedge = np.zeros((3, 20, 40, 3), np.uint8)
    wedge[..., 0] = 5 * np.arange(40)
    report = measure_still(wedge)
    assert report.values["mean_luma"].value == pytest.approx(0.299 * 5 * 19.5, rel=1e-9)
    slopes = np.full(40, 5 * 0.299)
    slopes[[0, -1]] /= 2  # central difference with the edge repeated
    assert report.values["sharpness"].value == pytest.approx(math.sqrt(np.mean(slopes**2)), rel=1e-5)


def test_fastest_is_the_mean_of_the_top_twentieth():
    assert fastest(np.arange(100, dtype=np.float32)) == 97
    assert fastest(np.array([7.0], np.float32)) == 7


def test_psnr_is_capped():
    assert psnr(0.0) == 100
    assert psnr(255.0**2) == 0
