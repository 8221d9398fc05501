"""Motion, jitter and duplicates of a camera that moves by whole pixels."""

import math

import numpy as np
import pytest
from exact_clips import every_length, every_size, sliding, values

from video_diffusion.metrics import measure
from video_diffusion.metrics.motion import fastest


@pytest.mark.full
@every_size
@every_length
def test_pan_by_whole_pixels_with_its_true_flow(num_frames, size):
    frames, flow = sliding([(3 * t, -2 * t) for t in range(num_frames)], size)
    metrics = ("motion", "flicker", "flow_jitter", "warp_psnr", "warp_ssim", "coverage")
    report = measure(frames, 8, metrics, flow=flow)
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


@pytest.mark.full
@every_size
def test_flow_jitter_of_uneven_speed(size):
    scale = 256 / min(size)
    for speeds, expected in [
        ([4, 2] * 8, 2),  # 3 ± 1 px: 2j
        ([0, 4] * 8, 0),  # 2 px on twos: 4 px between the frames that differ
        ([1, 1, 0, 2] * 4 + [1], 2 / 3),  # every fourth frame shown twice: 1, 1, 2 px between those
    ]:
        frames, flow = sliding([(x, 0) for x in np.cumsum([0, *speeds])], size)
        assert measure(frames, 8, ["flow_jitter"], flow=flow).values["flow_jitter"].value == pytest.approx(
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


def test_fastest_is_the_mean_of_the_top_twentieth():
    assert fastest(np.arange(100, dtype=np.float32)) == 97
    assert fastest(np.array([7.0], np.float32)) == 7
