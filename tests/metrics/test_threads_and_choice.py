"""Threads change no number; what is not asked for is not computed; a clip known to be one shot has no cut."""

import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.metrics.flow import DisFlow

CLIP = DISTORTIONS["frame noise"].apply(clean_clip("pebbles", "pan", 2, 14, 64, 88).frames, 4)


class CountedFlow(DisFlow):
    calls = 0

    def between(self, index, first, second):
        self.calls += 1
        return super().between(index, first, second)


@pytest.mark.full
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_give_the_same_report_to_the_last_digit(threads):
    cut = np.concatenate([CLIP, clean_clip("bricks", "rotation", 2, 6, 64, 88).frames])
    expected = measure(cut, 8, window_starts=[4], threads=1)
    assert measure(cut, 8, window_starts=[4], threads=threads) == expected
    assert expected.values["cuts"].value == 1


@pytest.mark.full
@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["mean_luma"], 0),
        (["sharpness", "duplicate_pairs"], 0),
        (["flicker"], 13),
        (["motion"], 13),
    ],
)
def test_flow_is_computed_only_for_metrics_that_need_it(metrics, expected):
    flow = CountedFlow()
    report = measure(CLIP, 8, metrics=metrics, flow=flow, threads=1)
    assert flow.calls == expected
    for name in metrics:
        assert report.values[name].value == measure(CLIP, 8).values[name].value


def test_flow_of_each_pair_is_computed_once_whatever_is_measured():
    flow = CountedFlow()
    measure(CLIP, 8, flow=flow, threads=1)
    assert flow.calls == len(CLIP) - 1


def test_the_worst_jump_of_a_clip_known_to_be_one_shot_is_scored():
    jump = np.concatenate(
        [CLIP[:7], DISTORTIONS["frame noise"].apply(clean_clip("bricks", "pan", 2, 7, 64, 88).frames, 4)]
    )
    cut, one_shot = measure(jump, 8), measure(jump, 8, one_shot=True)
    assert (cut.values["cuts"].value, one_shot.values["cuts"].value) == (1, 0)
    assert cut.values["flicker"].series[6] is None
    assert one_shot.values["flicker"].series[6] > 1.5 * cut.values["flicker"].value
    assert one_shot.values["flicker"].value > cut.values["flicker"].value


def test_a_gif_of_12_and_13_hundredths_comes_at_even_steps():
    from fractions import Fraction

    from video_diffusion.metrics import ALL_METRICS, Measurement

    for ticks, status in (([12, 13] * 7, "ok"), ([12, 15] * 7, "unmeasurable")):
        measurement = Measurement(ALL_METRICS, DisFlow())
        times = np.cumsum([0, *ticks]) / 100
        for index, frame in enumerate(CLIP):
            measurement.add(index, float(times[index]), frame)
        assert measurement.evenly_spaced == (status == "ok")
        assert measurement.report(Fraction(8)).values["luma_spectrum"].status == status
