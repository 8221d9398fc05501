"""What one step asks of the network: noisy clips in, one loss for each clip out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from video_diffusion.models import VideoUNet
from video_diffusion.sampling import initial_noise
from video_diffusion.shapes import Latents, PromptEmbeds
from video_diffusion.training.draws import ItemDraws, Stream, chance
from video_diffusion.training.loss import appearance_debiased, min_snr_weights, training_target
from video_diffusion.training.settings import LossSettings


def training_scheduler(config: Mapping[str, Any], loss: LossSettings) -> DDIMScheduler:
    """The noise schedule that clips are noised by: the model's own, rescaled if that is asked for.

    Raises:
        ValueError: `zero_terminal_snr` for a model that predicts noise.
    """
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
    """The noise of each clip, on the CPU in float32: a pure function of its draws.

    Args:
        draws: One for each clip.
        shape: Channels, frames, rows and columns of the latents.
        loss: Which kind of noise.
    """
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
