"""Neighbours averaged along the flow, in closed form: noise, still clips, pans, cuts; and as a setting."""

from typing import Any

import numpy as np
import pytest

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.metrics import measure
from video_diffusion.metrics.flow import SuppliedFlow
from video_diffusion.pipeline.deflicker import deflicker

SIZE = (48, 64)


def texture(num_frames: int, step: float = 0.0) -> Any:
    """A smooth texture that goes `step` pixels to the left in each frame."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    planes = [
        128 + 60 * np.sin((x + step * frame) / (4.0 + channel)) * np.cos(y / 6.0)
        for frame in range(num_frames)
        for channel in range(3)
    ]
    return np.rint(np.stack(planes).reshape(num_frames, 3, *SIZE).transpose(0, 2, 3, 1)).astype(np.uint8)


def still_flow(num_frames: int) -> SuppliedFlow:
    flow = np.zeros((num_frames - 1, *SIZE, 2), np.float32)
    return SuppliedFlow(flow, flow)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_noise_of_a_still_clip_loses_the_share_that_the_formula_says(strength: float) -> None:
    clean = texture(1).repeat(24, 0).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 4, clean.shape)
    noisy = np.rint(clean + noise).astype(np.uint8)
    calm = deflicker(noisy, strength, still_flow(24))
    inner = slice(1, -1)  # the ends have one neighbour
    left = np.var(calm[inner] - clean[inner]) / np.var(noisy[inner] - clean[inner])
    assert left == pytest.approx((1 + 2 * strength**2) / (1 + 2 * strength) ** 2, rel=0.03)
    end = np.var(calm[0] - clean[0]) / np.var(noisy[0] - clean[0])
    assert end == pytest.approx((1 + strength**2) / (1 + strength) ** 2, rel=0.08)


@pytest.mark.parametrize("step", [0.0, 1.0, 1.5])
def test_a_clip_that_does_not_flicker_is_left_as_it_is_within_a_level(step: float) -> None:
    frames = texture(8, step)
    apart = np.abs(deflicker(frames, 1.0).astype(int) - frames)
    assert np.percentile(apart, 99) <= 1
    assert apart.mean() < 0.25


def test_the_whole_image_going_lighter_and_darker_is_evened_out() -> None:
    frames = texture(12, 1.0)
    frames[::2] += 6
    calm = deflicker(frames, 1.0)
    before, after = (measure(each, 8, ("flicker",)).values["flicker"].value for each in (frames, calm))
    assert before is not None and after is not None
    assert after < 0.5 * before  # a third of ±3, and what rounding adds


def test_a_cut_is_not_smeared() -> None:
    dark, light = texture(4) // 3, 150 + texture(4) // 3  # of the same pattern, so that flow is believed
    apart = np.abs(deflicker(np.concatenate([dark, light]), 1.0).astype(int) - np.concatenate([dark, light]))
    assert apart[3:5].max() <= 1


def test_nothing_to_do_is_nothing_done() -> None:
    frames = texture(3)
    assert deflicker(frames, 0.0) is frames
    assert deflicker(frames[:1], 1.0).shape == (1, *SIZE, 3)


def test_as_a_setting_it_acts_on_what_is_decoded_before_it_is_measured(pipeline: TextToVideoPipeline) -> None:
    asked = {"prompt": "a ball", "num_frames": 5}
    plain, calm = (
        pipeline.generate([GenerationSettings.from_values({**asked, **more})])[0]
        for more in ({}, {"deflicker": 0.5})
    )
    assert np.array_equal(calm.frames, deflicker(plain.frames, 0.5))
    assert not np.array_equal(calm.frames, plain.frames)
    assert calm.run_record.settings.deflicker == 0.5
    assert calm.run_record.job_id != plain.run_record.job_id
    with pytest.warns(UserWarning, match="deflicker is ignored with one frame"):
        pipeline.generate([GenerationSettings.from_values({**asked, "num_frames": 1, "deflicker": 0.5})])
