"""What the network is asked to predict, and how far off it was."""

from __future__ import annotations

import math

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor


def shifted_cosine_betas(num_train_timesteps: int = 1000, shift: float = 3.0) -> list[float]:
    """Betas of a cosine schedule moved towards more noise, ending at (all but) zero signal.

    At time t in (0, 1] noise over signal is `shift · tan(π t / 2)`: the cosine schedule of Nichol and
    Dhariwal 2021 shifted as
    in Hoogeboom et al. 2023. The last step keeps a signal of 2^-12 (its square is 2^-24, as diffusers' own
    zero-SNR clamp) so
    that schedulers which divide by the signal also run.
    """
    times = [(i + 1) / num_train_timesteps for i in range(num_train_timesteps - 1)]
    alphas_cumprod = [1 / (1 + (shift * math.tan(math.pi * t / 2)) ** 2) for t in times] + [2.0**-24]
    previous = [1.0, *alphas_cumprod[:-1]]
    return [1 - now / before for now, before in zip(alphas_cumprod, previous, strict=True)]


def training_target(
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c f h w"],
    noise: Float[Tensor, "b c f h w"],
    timesteps: Int[Tensor, " b"],
) -> Float[Tensor, "b c f h w"]:
    """What the network should answer, by the scheduler's own `prediction_type`."""
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            return scheduler.get_velocity(latents, noise, timesteps)
        case "sample":
            return latents
        case other:
            raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {other!r}")


def stratified_timesteps(
    num: int, num_train_timesteps: int, generator: torch.Generator
) -> Int[Tensor, " num"]:
    """One uniform timestep in each of `num` equal parts of the schedule, in random order."""
    offsets = (torch.arange(num) + torch.rand(num, generator=generator)) / num
    return (offsets * num_train_timesteps).long()[torch.randperm(num, generator=generator)]
