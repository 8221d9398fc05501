"""Clips too short, too small, black, noise, cut, or unevenly timed: a status, never a wrong number."""

from fractions import Fraction

import numpy as np
import pytest
from synthetic_clips import clean_clip

from video_diffusion.metrics import ALL_METRICS, measure
from video_diffusion.metrics.flow import DisFlow, FarnebackFlow, SuppliedFlow
from video_diffusion.metrics.measurement import HORIZON, Measurement
from video_diffusion.metrics.shots import find_cuts


def statuses(report):
    return {name: measured.status for name, measured in report.values.items()}


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_short_clips_give_a_value_or_say_too_short(num_frames):
    report = measure(clean_clip("waves", "pan", 2, num_frames, 40, 56).frames, 8)
    needs = {
        "raw_flicker": 2,
        "flicker": 3,
        "luma_flicker": 3,
        "luma_spectrum": 8,
        "flash_safety": 3,
        "drift": 3,
    }
    needs |= {"warp_psnr": 2, "warp_ssim": 2, "coverage": 2, "motion": 2, "flow_jitter": 3, "cuts": 3}
    needs |= {"duplicate_pairs": 2, "sharpness": 1, "steady_sharpness": 3, "mean_luma": 1}
    for name, least in needs.items():
        measured = report.values[name]
        assert (measured.value is None, measured.status == "too_short") == (num_frames < least,) * 2, name


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_clips_are_static(level):
    report = measure(np.full((9, 40, 56, 3), level, np.uint8), 8)
    got = statuses(report)
    assert {got[name] for name in ("raw_flicker", "flicker", "motion", "warp_psnr", "drift")} == {"static"}
    assert report.values["mean_luma"].value == pytest.approx(level)
    assert report.values["sharpness"].value == 0


def test_noise_is_unmeasurable_where_flow_is_needed_and_its_flicker_stands_with_that_status():
    report = measure(np.random.default_rng(0).integers(0, 256, (9, 40, 56, 3), dtype=np.uint8), 8)
    for name in ("motion", "warp_psnr", "warp_ssim", "flow_jitter"):
        assert report.values[name].value is None
        assert report.values[name].status == "unmeasurable"
        assert report.values[name].coverage < 0.5
    assert report.values["flicker"].value > 20
    assert report.values["flicker"].status == "unmeasurable"


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (15, 40), (16, 16), (17, 23)])
def test_tiny_and_odd_sizes_work(size):
    frames = np.random.default_rng(1).integers(90, 160, (9, *size, 3), dtype=np.uint8)
    report = measure(frames, 8, window_starts=[4])
    assert set(statuses(report).values()) <= {"ok", "unmeasurable", "static", "too_short"}
    assert report.values["raw_flicker"].value == pytest.approx(
        np.abs(np.diff(frames.astype(float), axis=0)).mean() / 255, rel=1e-12
    )
    if min(size) < 16:
        assert report.values["motion"].status == "unmeasurable"
        assert report.values["coverage"].value == 0


@pytest.mark.full
@pytest.mark.parametrize(
    ("first", "second"),
    [("waves", "bricks"), ("bricks", "pebbles"), ("pebbles", "waves"), ("bricks", "bricks")],
)
@pytest.mark.parametrize("speed", [2, 8])
def test_a_cut_is_found_in_slow_and_in_fast_motion_and_nothing_is_scored_across_it(first, second, speed):
    shots = [clean_clip(first, "pan", speed, 6).frames, clean_clip(second, "rotation", speed, 12).frames[6:]]
    if first == second:  # the same wall from two sides is a cut only when nothing of it matches
        shots[1] = 255 - shots[1][:, ::-1]
    report = measure(np.concatenate(shots), 8)
    assert report.values["cuts"].value == 1
    assert report.values["cuts"].series.index(1) == 6
    assert report.values["flicker"].value < 0.9
    assert report.values["flicker"].series[5:7] == (None, None)
    assert report.values["raw_flicker"].series[6] is None
    assert {report.values[name].status for name in ("flicker", "raw_flicker", "motion", "drift")} == {
        "has_cut"
    }


def test_stills_that_follow_one_another_are_cut_and_a_clip_on_twos_is_not():
    stills = [clean_clip(texture, "pan", 0, 6).frames for texture in ("waves", "bricks", "pebbles")]
    assert measure(np.concatenate(stills), 8).values["cuts"].series == tuple(
        float(index in {6, 12}) for index in range(18)
    )
    on_twos = np.repeat(clean_clip("waves", "pan", 12, 8).frames, 2, axis=0)
    report = measure(on_twos, 8)
    assert (report.values["cuts"].value, report.values["duplicate_pairs"].value) == (0, 8)


def test_a_flash_is_no_cut_and_its_flicker_counts():
    frames = clean_clip("pebbles", "pan", 1, 12).frames.copy()
    frames[5] = 255 - (255 - frames[5]) // 8
    report = measure(frames, 8)
    assert report.values["cuts"].value == 0
    assert report.values["cuts"].details["flashes"] == 1
    assert report.values["flicker"].series[5] > 20


def test_a_jump_at_a_known_window_start_is_a_seam_and_not_a_cut():
    frames = np.concatenate(
        [clean_clip("waves", "pan", 2, 6).frames, clean_clip("bricks", "pan", 2, 6).frames]
    )
    assert measure(frames, 8).values["cuts"].value == 1
    report = measure(frames, 8, window_starts=[6])
    assert report.values["cuts"].value == 0
    assert report.values["seam_excess"].value > 20


def test_cuts_are_judged_against_medians_and_flashes_need_the_neighbours_to_agree():
    coverage = np.array([0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.9])
    change = np.array([5.0, 40, 5, 40, 40, 5, 5])
    along = np.array([0.5, 30, 0.5, 30, 30, 0.5, 0.5])
    across = np.array([40.0, 40, 40, 6, 40, 8, np.nan])
    cut, flash = find_cuts(coverage, change, along, across)
    assert cut.tolist() == [False, True, False, False, False, False, False]
    assert flash.tolist() == [False, False, False, True, False, False, False]


@pytest.mark.full
def test_long_clips_are_settled_in_pieces_with_the_same_result():
    shot = np.tile(
        clean_clip("waves", "pan", 1, 8, 16, 24).frames, (80, 1, 1, 1)
    )  # jumps back every 8 frames
    long = np.concatenate([shot, clean_clip("bricks", "pan", 1, 8, 16, 24).frames])
    assert len(long) > 2 * HORIZON
    zero = np.zeros((len(long) - 1, 16, 24, 2), np.float32)
    report = measure(long, 8, metrics=["raw_flicker", "flicker"], flow=(zero, zero))
    raw = np.abs(np.diff(long.astype(float), axis=0)).mean(axis=(1, 2, 3)) / 255
    assert report.values["raw_flicker"].value == pytest.approx(raw.mean(), rel=1e-12)
    assert list(report.values["raw_flicker"].series[1:]) == pytest.approx(raw.tolist(), rel=1e-12)
    levels = long.astype(float)
    middle = np.abs(levels[:-2] - 2 * levels[1:-1] + levels[2:]).mean(axis=(1, 2, 3)) / 4
    assert list(report.values["flicker"].series[1:-1]) == pytest.approx(middle.tolist(), rel=1e-5, abs=1e-6)


def walk(frames, indices, times=None):
    measurement = Measurement(ALL_METRICS, DisFlow())
    for index in indices:
        measurement.add(int(index), float(index) / 8 if times is None else times[index], frames[index])
    return measurement


def test_left_out_frames_are_not_measured_across():
    frames = clean_clip("pebbles", "zoom", 2, 12, 40, 56).frames
    report = walk(frames, [0, 1, 2, 5, 6, 7, 9, 10, 11]).report(Fraction(8), num_frames=12)
    whole = measure(frames, 8)
    assert report.frame_numbers == (0, 1, 2, 5, 6, 7, 9, 10, 11)
    series = dict(zip(report.frame_numbers, report.values["flicker"].series, strict=True))
    assert {index for index, value in series.items() if value is not None} == {1, 6, 10}
    assert [series[index] for index in (1, 6, 10)] == [
        whole.values["flicker"].series[index] for index in (1, 6, 10)
    ]
    for name in ("luma_spectrum", "drift", "flash_safety"):
        assert report.values[name].status == "unmeasurable"
    assert "measured on 9 of them" in report.table()
    assert report.to_json()["frame_numbers"] == list(report.frame_numbers)


def test_uneven_timing_makes_the_spectrum_unmeasurable_and_nothing_else():
    frames = clean_clip("waves", "pan", 2, 12, 40, 56).frames
    times = [index / 8 + 0.05 * (index % 3 == 1) for index in range(12)]
    report = walk(frames, range(12), times).report(Fraction(8))
    assert report.values["luma_spectrum"].status == "unmeasurable"
    milliseconds = [
        round(index / 24, 3) for index in range(12)
    ]  # what a container that counts in ms makes of 24 fps
    assert walk(frames, range(12), milliseconds).report(Fraction(24)).values["luma_spectrum"].status == "ok"
    assert report.values["flicker"].value == measure(frames, 8).values["flicker"].value


def test_flow_by_name_by_object_and_as_arrays():
    clip = clean_clip("pebbles", "pan", 2, 6, 64, 88)
    exact = measure(clip.frames, 8, flow=(clip.forward, clip.backward))
    by_object = measure(clip.frames, 8, flow=SuppliedFlow(clip.forward, clip.backward))
    assert exact == by_object
    assert (exact.flow, measure(clip.frames, 8).flow) == ("supplied", "DIS")
    farneback = measure(clip.frames, 8, flow="farneback")
    assert farneback == measure(clip.frames, 8, flow=FarnebackFlow())
    assert farneback.flow == "Farneback"
    for report in (measure(clip.frames, 8), farneback):
        assert report.values["motion"].value == pytest.approx(exact.values["motion"].value, rel=0.05)
        assert report.values["flicker"].value == pytest.approx(exact.values["flicker"].value, abs=0.6)


def test_dis_at_full_resolution_is_the_default_because_half_resolution_has_a_floor_on_a_clean_pan():
    clip = clean_clip("waves", "pan", 3.3, 8, 64, 88)
    full, half = (measure(clip.frames, 8, flow=DisFlow(scale)).values["flicker"].value for scale in (0, 1))
    exact = measure(clip.frames, 8, flow=(clip.forward, clip.backward)).values["flicker"].value
    assert full - exact < 0.02  # above the rounding of the frames
    assert half - exact > 0.04


def test_lanczos_warping_leaves_less_on_a_half_pixel_pan_than_the_rounding_of_frames():
    clip = clean_clip("waves", "pan", 0.5, 8, 64, 88)
    assert measure(clip.frames, 8, flow=(clip.forward, clip.backward)).values["flicker"].value < 0.2
