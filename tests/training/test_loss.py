"""Schedule, targets and timesteps against their formulas."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from video_diffusion.training.objective import shifted_cosine_betas, stratified_timesteps, training_target


def test_the_schedule_is_the_shifted_cosine_and_ends_without_signal() -> None:
    alphas_cumprod = torch.cumprod(1 - torch.tensor(shifted_cosine_betas(), dtype=torch.float64), 0)
    for index in (0, 99, 500, 998):
        ratio = 3 * math.tan(math.pi * (index + 1) / 2000)
        assert alphas_cumprod[index].item() == pytest.approx(1 / (1 + ratio**2), rel=1e-9)
    assert alphas_cumprod[-1].item() == pytest.approx(2**-24, rel=1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_target_takes_the_scheduler_back_to_the_latents(prediction_type: str) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False)
    latents, noise = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    timesteps = torch.tensor([700, 700])
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = training_target(scheduler, latents, noise, timesteps)
    scheduler.set_timesteps(1000)
    found = scheduler.step(target, 700, noisy).pred_original_sample
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)


def test_an_unknown_prediction_type_is_named() -> None:
    scheduler = DDIMScheduler(prediction_type="flow")
    zeros = torch.zeros(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="epsilon, v_prediction or sample, got 'flow'"):
        training_target(scheduler, zeros, zeros, torch.tensor([1]))


def test_timesteps_fall_once_into_each_part_of_the_schedule() -> None:
    drawn = stratified_timesteps(20, 1000, torch.Generator().manual_seed(4))
    assert sorted((drawn // 50).tolist()) == list(range(20))
    assert drawn.tolist() != sorted(drawn.tolist())
    assert torch.equal(drawn, stratified_timesteps(20, 1000, torch.Generator().manual_seed(4)))
