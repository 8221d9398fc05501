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


def min_snr_weights(
    scheduler: DDIMScheduler, timesteps: Int[Tensor, " b"], gamma: float
) -> Float[Tensor, " b"]:
    """Weights of Hang et al. 2023 (Min-SNR): each level's loss on the clean latents counts min(SNR, gamma).

    The formula for what the network predicts follows from the scheduler's `prediction_type`. At SNR 0 the
    weight for noise prediction is 1, its limit, where min(SNR, gamma) / SNR itself is 0 / 0.

    Args:
        scheduler: Holds `alphas_cumprod`.
        timesteps: One for each video.
        gamma: The paper uses 5.
    """
    # on the CPU: Apple's GPUs know no float64
    alphas_cumprod = scheduler.alphas_cumprod.cpu()[timesteps.cpu()].double()
    snr = alphas_cumprod / (1 - alphas_cumprod)
    limited = snr.clamp(max=gamma)
    match scheduler.config.prediction_type:
        case "epsilon":
            weights = torch.where(snr > 0, limited / snr.clamp(min=1e-300), 1.0)
        case "v_prediction":
            weights = limited / (snr + 1)
        case _:
            weights = limited
    return weights.float().to(timesteps.device)


def appearance_debiased(
    values: Float[Tensor, "b c f h w"], anchors: Int[Tensor, " b"], beta: float
) -> Float[Tensor, "b c f h w"]:
    """Take one frame's share out of all frames: sqrt(beta² + 1) · values - beta · values of the anchor frame.

    What the frames have in common, appearance, shrinks; what sets them apart, motion, stays. Source: Zhao et
    al. 2023 (MotionDirector), equation 7, who use beta 1.

    Args:
        values: A prediction, or what it should be.
        anchors: For each video, the number of its anchor frame.
        beta: How much of the anchor is taken out.
    """
    videos = torch.arange(len(values), device=values.device)
    anchor = values[videos, :, anchors.to(values.device)].unsqueeze(2)
    return math.sqrt(beta**2 + 1) * values - beta * anchor
