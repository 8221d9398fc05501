"""What stays, and what changes in a known way, when a clip is mirrored, reversed, lengthened or shuffled."""

import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure

EXACT = ("raw_flicker", "luma_flicker", "luma_spectrum", "duplicate_pairs", "mean_luma", "sharpness", "drift")
BY_FLOW = ("flicker", "warp_psnr", "warp_ssim", "coverage", "motion", "flow_jitter")


def noisy_clip():
    frames = DISTORTIONS["frame noise"].apply(clean_clip("pebbles", "rotation", 4, 13, 64, 88).frames, 4)
    frames = np.clip(frames * np.linspace(0.8, 1, 13)[:, None, None, None], 0, 255).astype(np.uint8)
    frames[7] = frames[6]
    return frames


CLIP = noisy_clip()
REPORT = measure(CLIP, 8)


def compare(report, names, tolerance):
    for name in names:
        assert report.values[name].value == pytest.approx(REPORT.values[name].value, rel=tolerance), name


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda frames: frames[:, :, ::-1], id="mirror"),
        pytest.param(lambda frames: frames[:, ::-1], id="upside down"),
        pytest.param(lambda frames: frames.swapaxes(1, 2), id="transpose"),
        pytest.param(lambda frames: frames[::-1], id="reversal"),
    ],
)
def test_symmetries_keep_every_measure(change):
    report = measure(change(CLIP), 8)
    compare(report, EXACT, 1e-5)
    compare(report, BY_FLOW, 0.04)


def test_reversal_keeps_flicker_and_both_ways_measures_because_both_flows_come_from_one_function():
    compare(measure(CLIP[::-1], 8), ("flicker", "warp_psnr", "warp_ssim", "coverage"), 1e-5)


def test_swapping_red_and_blue_keeps_what_does_not_look_at_luma():
    compare(measure(CLIP[..., ::-1], 8), ("raw_flicker", "duplicate_pairs"), 1e-12)


def test_a_constant_added_moves_mean_luma_and_nothing_else():
    dark = np.minimum(CLIP, 225)
    plain, lifted = measure(dark, 8), measure(dark + 30, 8)
    assert lifted.values["mean_luma"].value == pytest.approx(plain.values["mean_luma"].value + 30, rel=1e-9)
    for name in ("raw_flicker", "luma_flicker", "flicker", "sharpness", "drift", "duplicate_pairs", "motion"):
        assert lifted.values[name].value == pytest.approx(plain.values[name].value, rel=2e-3, abs=1e-6), name


def test_an_appended_duplicate_adds_one_duplicate_pair_and_changes_no_other_measure():
    report = measure(np.concatenate([CLIP, CLIP[-1:]]), 8)
    for name, measured in report.values.items():
        expected = REPORT.values[name]
        if name == "duplicate_pairs":
            assert measured.value == expected.value + 1
        else:
            assert (measured.value, measured.status) == (expected.value, expected.status), name
    assert report.values["raw_flicker"].series == (*REPORT.values["raw_flicker"].series, None)
    vbench = [each.values["raw_flicker"].details["vbench_temporal_flickering"] for each in (report, REPORT)]
    assert 1 - vbench[0] == pytest.approx((1 - vbench[1]) * (len(CLIP) - 1) / len(CLIP), rel=1e-9)


def test_concatenation_with_itself_adds_only_the_joint():
    twice = measure(np.concatenate([CLIP, CLIP]), 8)
    series = twice.values["raw_flicker"].series
    once = REPORT.values["raw_flicker"].series
    assert (series[: len(CLIP)], series[len(CLIP) + 1 :]) == (once, once[1:])
    joint = series[len(CLIP)]  # None if the joint is a cut, which then is the only one
    assert (joint is None) == (twice.values["cuts"].value == 1)
    kept = [value for value in series if value is not None]
    assert twice.values["raw_flicker"].value == pytest.approx(np.mean(kept), rel=1e-12)


def test_shuffling_keeps_what_looks_at_one_frame_and_raises_what_looks_at_order():
    order = np.random.default_rng(3).permutation(len(CLIP))
    report = measure(CLIP[order], 8)
    compare(report, ("mean_luma", "sharpness"), 1e-12)
    for name in ("raw_flicker", "flicker", "flow_jitter"):
        assert report.values[name].value is None or report.values[name].value > REPORT.values[name].value


def test_every_second_frame_of_a_pan_moves_twice_as_far_and_no_more_flickers():
    pan = clean_clip("waves", "pan", 2, 17, 64, 88).frames
    every, second = measure(pan, 8), measure(pan[::2], 4)
    assert second.values["motion"].value == pytest.approx(2 * every.values["motion"].value, rel=0.01)
    assert second.values["motion"].details["per_second"] == pytest.approx(
        every.values["motion"].details["per_second"], rel=0.01
    )
    assert second.values["raw_flicker"].value > 1.4 * every.values["raw_flicker"].value
    assert second.values["flicker"].value < 0.3


@pytest.mark.full
def test_brightness_flicker_measures_the_same_at_half_and_at_double_size():
    values = []
    for size in ((48, 64), (96, 128), (192, 256)):
        clean = clean_clip("waves", "pan", size[0] / 48, 9, *size).frames
        values.append(measure(DISTORTIONS["brightness flicker"].apply(clean, 8), 8).values["flicker"].value)
    assert values == pytest.approx([values[1]] * 3, rel=0.1)
