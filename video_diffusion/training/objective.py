"""What one step asks of the network: seeded draws, noisy clips in, one loss for each clip out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from video_diffusion.models import VideoUNet
from video_diffusion.sampling import initial_noise
from video_diffusion.settings.training import LossSettings
from video_diffusion.shapes import Latents, PromptEmbeds


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
    """
    videos = torch.arange(len(values), device=values.device)
    anchor = values[videos, :, anchors.to(values.device)].unsqueeze(2)
    return math.sqrt(beta**2 + 1) * values - beta * anchor


# Chance in training: every draw depends on (seed, step, item) and on nothing else.
#
# So a run that was stopped, moved or split over processes draws the same numbers, and nothing of a random
# state has to be saved.


class Stream(IntEnum):
    """What a number is drawn for; streams have nothing in common."""

    NOISE, TIMESTEP, CAPTION, FRAME, ORDER, OFFSET, LAYERS, TEACHER = range(1, 9)


@dataclass(frozen=True)
class ItemDraws:
    """What chance decides for one item of one step.

    Attributes:
        noise_seed: Of the noise of its frames.
        level: Where on the noise schedule, from 0 (clean) to just below 1.
        without_caption: Whether it is trained without its caption.
        frame: Where in the clip, from 0 to just below 1, wherever one of its frames is chosen.
    """

    noise_seed: int
    level: float
    without_caption: bool
    frame: float


def chance(seed: int, step: int, stream: Stream) -> np.random.Generator:
    """The random numbers of one step for one purpose."""
    return np.random.default_rng((seed, step, int(stream)))


def draw_step(seed: int, step: int, batch_size: int, loss: LossSettings) -> list[ItemDraws]:
    """Draw for all items of a step; one level falls into each of `batch_size` equal parts of the schedule."""
    noise_seeds = chance(seed, step, Stream.NOISE).integers(2**63, size=batch_size)
    rng = chance(seed, step, Stream.TIMESTEP)
    levels = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
    captions = chance(seed, step, Stream.CAPTION).random(batch_size) < loss.caption_dropout
    frames = chance(seed, step, Stream.FRAME).random(batch_size)
    return [
        ItemDraws(int(noise), shifted_level(float(level), loss), bool(without), float(frame))
        for noise, level, without, frame in zip(noise_seeds, levels, captions, frames, strict=True)
    ]


def shifted_level(level: float, loss: LossSettings) -> float:
    """Turn a uniform number into a place on the noise schedule, both from 0 to just below 1."""
    if loss.timestep_sampling == "logit_normal":
        level = _logistic(_normal_quantile(level))
    return min(loss.timestep_shift * level / (1 + (loss.timestep_shift - 1) * level), 1 - 1e-9)


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist  # noqa: PLC0415  needed for one setting only

    return NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))


# What one step asks of the network: noisy clips in, one loss for each clip out.


def training_scheduler(config: Mapping[str, Any], loss: LossSettings) -> DDIMScheduler:
    """The noise schedule that clips are noised by: the model's own, rescaled if that is asked for."""
    known = DDIMScheduler().config.keys()
    settings = {name: value for name, value in config.items() if name in known and not name.startswith("_")}
    prediction_type = settings.get("prediction_type", "epsilon")
    if loss.zero_terminal_snr:
        if prediction_type != "v_prediction":
            raise ValueError(
                f"loss.zero_terminal_snr needs a model of v_prediction, but this one predicts "
                f"{prediction_type}: at the last step, pure noise, its answer would say nothing of the clip; "
                "leave it off"
            )
        settings["rescale_betas_zero_snr"] = True
    return DDIMScheduler(**settings)


class DenoisingObjective(nn.Module):
    """The denoising loss of a video U-Net; a module, so that accelerate can spread it over processes.

    Args:
        video_unet: The network; whichever of its parameters require a gradient are trained.
        scheduler: Of `training_scheduler`.
        loss: How much counts what.
    """

    def __init__(self, video_unet: VideoUNet, scheduler: DDIMScheduler, loss: LossSettings) -> None:
        super().__init__()
        self.video_unet = video_unet
        self.scheduler = scheduler
        self.loss = loss

    def inputs(self, latents: Latents, draws: Sequence[ItemDraws]) -> dict[str, Tensor]:
        """What `forward` takes of clips beside their captions: a pure function of their draws."""
        return {
            "latents": latents,
            "noise": clip_noise(draws, latents[0].shape, self.loss),
            "timesteps": clip_timesteps(draws, self.scheduler),
            "anchors": anchor_frames(draws, latents.shape[2]),
        }

    def forward(
        self,
        latents: Latents,
        noise: Latents,
        timesteps: Int[Tensor, " b"],
        prompt_embeds: PromptEmbeds,
        anchors: Int[Tensor, " b"],
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, " b"]:
        """Noise the clips, ask the network, and compare; one loss for each clip.

        Args:
            latents: Clean.
            noise: Of the same shape.
            timesteps: Noise level of each clip.
            prompt_embeds: What each clip shows.
            anchors: Frame that the appearance-debiased loss takes as its anchor.
            added_cond_kwargs: What an SDXL U-Net reads besides.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = training_target(self.scheduler, latents, noise, timesteps)
        prediction = self.video_unet(
            noisy, timesteps, prompt_embeds, added_cond_kwargs=added_cond_kwargs
        ).float()
        losses = _mean_square(prediction - target)
        beta = self.loss.appearance_debias
        if beta and latents.shape[2] > 1:
            losses = losses + _mean_square(appearance_debiased(prediction - target, anchors, beta))
        if self.loss.min_snr_gamma is not None:
            losses = losses * min_snr_weights(self.scheduler, timesteps, self.loss.min_snr_gamma)
        return losses


def clip_noise(
    draws: Sequence[ItemDraws], shape: Sequence[int], loss: LossSettings
) -> Float[Tensor, "b c f h w"]:
    """The noise of each clip, on the CPU in float32: a pure function of its draws."""
    channels, num_frames, height, width = shape
    kind: dict[str, Any] = {}
    if loss.noise_type != "independent":
        kind = {"noise_type": loss.noise_type, "noise_alpha": loss.noise_alpha}
    noise = torch.stack(
        [initial_noise(draw.noise_seed, num_frames, channels, height, width, **kind) for draw in draws]
    )
    if loss.noise_offset:
        shifts = np.stack([chance(d.noise_seed, 0, Stream.OFFSET).standard_normal(channels) for d in draws])
        shift = torch.from_numpy(shifts).float()[:, :, None, None, None]
        noise = noise + loss.noise_offset * shift
    return noise


def clip_timesteps(draws: Sequence[ItemDraws], scheduler: DDIMScheduler) -> Int[Tensor, " b"]:
    """The noise level of each clip as a timestep of the schedule."""
    num = int(scheduler.config.num_train_timesteps)
    return torch.tensor([int(draw.level * num) for draw in draws])


def anchor_frames(draws: Sequence[ItemDraws], num_frames: int) -> Int[Tensor, " b"]:
    """The frame that each clip's draws choose."""
    return torch.tensor([int(draw.frame * num_frames) for draw in draws])


def _mean_square(values: Float[Tensor, "b c f h w"]) -> Float[Tensor, " b"]:
    return values.square().mean(dim=(1, 2, 3, 4))
