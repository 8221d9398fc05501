"""What `measure` takes, what it returns, and how reports read."""

import json
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_clips import clean_clip

from video_diffusion.metrics import ALL_METRICS, measure

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)


def test_numpy_floats_lists_and_torch_in_any_type_give_the_same_answer():
    expected = measure(FRAMES, 8).to_json()
    as_torch = torch.from_numpy(FRAMES).movedim(-1, 1)
    assert measure(FRAMES / 255, 8).to_json() == expected
    assert measure((FRAMES / 255).astype(np.float32), 8).to_json() == expected
    assert measure(list(FRAMES), 8).to_json() == expected
    assert measure(as_torch, 8).to_json() == expected
    assert measure(as_torch / 255, 8).to_json() == expected
    assert measure((as_torch / 255).double().requires_grad_(), 8).to_json() == expected


def test_frames_larger_than_full_hd_are_measured_at_a_lower_size_and_the_report_says_so():
    """Symptom: three frames of 4K took 3.9 GB."""
    rng = np.random.default_rng(1)
    small = np.repeat(np.repeat(rng.integers(0, 256, (3, 60, 120, 3), dtype=np.uint8), 10, 1), 10, 2)
    large = np.repeat(np.repeat(small, 2, 1), 2, 2)
    report = measure(large, 8, metrics=["motion", "mean_luma"])
    assert (report.width, report.height) == (2400, 1200)
    assert "frames reduced to 1200×600" in report.flow and "reduced to 1200×600" in report.table()
    as_small = measure(small, 8, metrics=["motion", "mean_luma"])
    assert "reduced" not in as_small.flow
    assert {name: each.value for name, each in report.values.items()} == {
        name: each.value for name, each in as_small.values.items()
    }


def test_floats_are_rounded_not_truncated():
    grey = np.full((2, 20, 24, 3), 99.6 / 255)
    assert measure(grey, 8).values["mean_luma"].value == pytest.approx(100, abs=1e-9)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES[0], "axes f h w c"),
        (np.moveaxis(FRAMES, -1, 1), "axes f h w c"),
        (FRAMES[..., :1], "3 colour channels"),
        (FRAMES[:0], "at least one frame"),
        (FRAMES.astype(np.int64), "uint8 or floats"),
        (FRAMES.astype(np.float32), "divide 8-bit levels by 255"),
        (np.full((2, 9, 8, 3), np.nan), r"\[0, 1\]"),
    ],
)
def test_frames_that_break_a_rule_are_refused_with_the_rule(frames, message):
    with pytest.raises(ValueError, match=message):
        measure(frames, 8)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_fps_must_be_above_zero(fps):
    with pytest.raises(ValueError, match="fps must be"):
        measure(FRAMES, fps)


def test_an_unknown_metric_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"'fliker'; choose from raw_flicker, flicker"):
        measure(FRAMES, 8, metrics=["fliker"])


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("raft", "'dis', 'farneback'"),
        ([np.zeros((4, 40, 56, 2))], "given 1"),
        ([np.zeros((4, 40, 56, 3))] * 2, "num_frames - 1, height, width, 2"),
        ([np.zeros((3, 40, 56, 2))] * 2, "frames 3 and 4"),
        ([np.zeros((4, 40, 55, 2))] * 2, "40 high and 56 wide"),
    ],
)
def test_flow_that_breaks_a_rule_is_refused_with_the_rule(flow, message):
    with pytest.raises(ValueError, match=message):
        measure(FRAMES, 8, flow=flow)


def test_window_starts_outside_the_clip_are_refused():
    with pytest.raises(ValueError, match=r"0…4.*\[2, 5\]"):
        measure(FRAMES, 8, window_starts=[2, 5])


def test_flicker_never_comes_alone():
    report = measure(FRAMES, 8, metrics=["flicker"])
    assert list(report.values) == ["flicker", "motion", "sharpness", "mean_luma"]


def test_each_metric_gives_the_same_answer_alone_as_in_company():
    together = measure(FRAMES, 8)
    for metric in ALL_METRICS:
        assert measure(FRAMES, 8, metrics=[metric.name]).values[metric.name] == together.values[metric.name]


def test_report_is_frozen_goes_through_json_and_pickle_and_lists_every_metric():
    report = measure(FRAMES, Fraction(24000, 1001))
    with pytest.raises(AttributeError):
        report.num_frames = 7  # type: ignore[misc]  # the point of the test
    with pytest.raises(TypeError):
        report.values["flicker"] = None  # type: ignore[index]  # the point of the test
    assert pickle.loads(pickle.dumps(report)) == report
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(plain["metrics"]) == [metric.name for metric in ALL_METRICS]
    assert (plain["num_frames"], plain["width"], plain["height"]) == (5, 56, 40)
    assert len(plain["metrics"]["flicker"]["series"]) == 5
    assert "series" not in plain["metrics"]["luma_spectrum"]
    assert "series" not in report.to_json(series=False)["metrics"]["flicker"]
    for metric in ALL_METRICS:
        assert metric.name in report.table()


def test_the_same_frames_give_the_same_report_bit_for_bit_wherever_they_lie_in_memory():
    frames = clean_clip("pebbles", "pan", 2, 4, 64, 88).frames
    expected = measure(frames, 8, flow="farneback")
    for size in (1, 3001, 70_007, 200_003):
        elsewhere = np.full(size, 1e30, np.float32)
        assert measure(frames, 8, flow="farneback") == expected
        del elsewhere


def test_every_value_lies_in_the_range_its_line_declares():
    clips = [
        FRAMES,
        np.repeat(FRAMES[:1], 9, axis=0),
        clean_clip("bricks", "zoom", 3, 9, 40, 56).frames,
        np.full((9, 40, 56, 3), 255, np.uint8) * (np.arange(9) % 2).astype(np.uint8)[:, None, None, None],
    ]
    for frames in clips:
        report = measure(frames, 8, window_starts=[2])
        for metric in ALL_METRICS:
            value = report.values[metric.name].value
            assert value is None or metric.range[0] <= value <= metric.range[1], (metric.name, value)


def test_importing_the_metrics_does_not_import_torch():
    code = "import sys, video_diffusion.metrics; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False False\n"


def test_the_documentation_has_a_paragraph_and_a_picture_for_every_metric():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    text = page.read_text()
    for metric in ALL_METRICS:
        paragraph = text.split(f"\n### {metric.name}\n")[1].split("\n### ")[0]
        for part in ("**Formula:**", "**Unit:**", f"](images/metrics/{metric.name}.png)"):
            assert part in paragraph, (metric.name, part)
        assert (page.parent / "images" / "metrics" / f"{metric.name}.png").stat().st_size > 1000
