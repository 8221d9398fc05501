"""Frames that are shown more than once: every measure of such a clip is that of its distinct frames."""

from fractions import Fraction

import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.metrics.shots import find_held
from video_diffusion.video import read_video, write_video

DISTINCT = DISTORTIONS["texture boiling"].apply(clean_clip("pebbles", "pan", 2, 16, 64, 88).frames, 1.5)


def compare(report, expected):
    """Values, statuses and details; VBench's number is by definition that of the frames as they are shown."""
    for name, measured in expected.values.items():
        if name == "duplicate_pairs":
            continue
        got = report.values[name]
        assert got.status == measured.status, name
        assert got.value == measured.value, name
        for detail, number in measured.details.items():
            if detail != "vbench_temporal_flickering":
                assert got.details[detail] == pytest.approx(number, rel=1e-9), (
                    name,
                    detail,
                )


@pytest.mark.parametrize("times", [2, 3, 4, 5])
def test_a_held_clip_measures_as_its_distinct_frames(times):
    expected = measure(DISTINCT, 8)
    report = measure(np.repeat(DISTINCT, times, axis=0), 8 * times)
    compare(report, expected)
    assert report.held_frames == (times - 1) * len(DISTINCT)
    assert report.distinct_fps == 8
    assert (
        f"each frame is shown {times} times; measured on the 16 distinct ones, 8 per second" in report.table()
    )
    series = report.values["flicker"].series
    assert series[::times] == expected.values["flicker"].series
    assert {series[place] for place in range(len(series)) if place % times} == {None}
    assert report.values["duplicate_pairs"].value == (times - 1) * len(DISTINCT)


def test_a_clip_held_unevenly_measures_as_its_distinct_frames():
    report = measure(np.repeat(DISTINCT, [3, 2] * 8, axis=0), 20)
    per_second = report.values["motion"].details["per_second"]
    expected = measure(DISTINCT, report.distinct_fps)
    compare(report, expected)
    assert per_second == pytest.approx(expected.values["motion"].details["per_second"], rel=1e-9)
    assert float(report.distinct_fps) == pytest.approx(8, rel=0.02)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_a_clip_held_with_an_encoders_noise_measures_as_its_distinct_frames(seed):
    generator = np.random.default_rng(seed)
    shown = np.repeat(DISTINCT, 3, axis=0).astype(int)
    noise = generator.integers(-1, 2, shown.shape) * (generator.random(shown.shape) < 0.2)
    noise[::3] = 0
    report = measure(np.clip(shown + noise, 0, 255).astype(np.uint8), 24)
    change = np.abs(noise[1::3]).mean()
    assert 0.1 < change < 0.2
    compare(report, measure(DISTINCT, 8))
    assert report.values["duplicate_pairs"].details["near"] == 32


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "encoding"), [("clip.mp4", {"crf": 18}), ("clip.mp4", {"crf": 28}), ("clip.gif", {})]
)
@pytest.mark.parametrize("times", [2, 3])
def test_no_encoder_hides_held_frames(name, encoding, times, tmp_path):
    frames = np.repeat(DISTORTIONS["frame noise"].apply(DISTINCT, 6), times, axis=0)
    write_video(tmp_path / name, frames, Fraction(8 * times), **encoding)
    report = measure(read_video(tmp_path / name).frames, 8 * times)
    assert report.held_frames >= 0.95 * (times - 1) * len(DISTINCT)
    assert report.values["flicker"].value > 1


def test_frames_held_twice_do_not_turn_the_flickering_clip_into_the_better_one():
    still = clean_clip("bricks", "pan", 1, 16, 64, 88).frames
    flickering = DISTORTIONS["brightness flicker"].apply(still, 12)
    held = measure(np.repeat(flickering, 2, axis=0), 16).values["flicker"].value
    assert (
        held == measure(flickering, 8).values["flicker"].value > 5 * measure(still, 8).values["flicker"].value
    )


def test_a_step_of_a_held_clip_is_no_cut():
    fast = np.repeat(
        DISTORTIONS["texture boiling"].apply(clean_clip("pebbles", "pan", 14, 8).frames, 3), 3, axis=0
    )
    report = measure(fast, 24)
    assert report.values["cuts"].value == 0
    assert len([value for value in report.values["flicker"].series if value is not None]) == 6


def test_a_still_a_flash_on_a_still_and_slow_motion_are_not_held():
    nan = float("nan")
    still = np.zeros(15)
    assert not find_held(still, np.full(15, nan)).any()
    flash, across = still.copy(), np.full(15, nan)
    flash[6:8], across[6] = 40, 0
    assert not find_held(flash, across).any()
    step = still.copy()
    step[7] = 40
    assert not find_held(step, np.full(15, nan)).any()
    slow = np.full(60, 0.1)  # a tenth of a level each time, and a fast end
    slow[40:] = 8
    held = find_held(slow, np.full(60, nan))
    assert 2 <= np.count_nonzero(~held[:40]) <= 8
    assert not held[40:].any()


def test_a_pause_is_stepped_over_and_motion_per_second_takes_the_true_times():
    order = [*range(8), *[7] * 6, *range(8, 16)]
    paused = measure(DISTINCT[order], 8)
    expected = measure(DISTINCT, 8)
    assert paused.values["motion"].value == expected.values["motion"].value
    ratio = paused.values["motion"].details["per_second"] / expected.values["motion"].details["per_second"]
    assert ratio == pytest.approx(15 / 21, rel=1e-9)
    assert paused.values["luma_spectrum"].status == "unmeasurable"


def test_known_flow_of_a_held_clip_is_that_from_its_last_copy():
    clip = clean_clip("waves", "pan", 2, 8, 48, 64)
    zero = np.zeros_like(clip.forward[:1])
    flows = [np.concatenate([part for flow in arrows for part in (zero, flow[None])] + [zero])
             for arrows in (clip.forward, clip.backward)]  # fmt: skip
    report = measure(np.repeat(clip.frames, 2, axis=0), 16, flow=tuple(flows))
    compare(report, measure(clip.frames, 8, flow=(clip.forward, clip.backward)))
