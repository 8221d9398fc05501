"""A picture as further input channels: how PIA adapters are told what to animate (Zhang et al. 2024)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.sampling.denoiser import PromptedModel, Timestep
from video_diffusion.shapes import Latents, PromptEmbeds

LIKENESS = (1.0, 0.9, 0.85, 0.85, 0.85, 0.8)
"""How alike frames 0, 1, 2, … are to the picture, the last value for the rest: PIA's "small motion"."""


def likeness(num_frames: int, hold: float | None) -> Float[Tensor, " f"]:
    """List how alike the picture each frame shall be: 1, then `hold` for all, or `LIKENESS` if it is None."""
    values = LIKENESS if hold is None else (1.0, hold)
    return torch.tensor([values[min(frame, len(values) - 1)] for frame in range(num_frames)])


class WithPicture:
    """A model whose input is the noisy latents, then a mask of likeness, then the picture's latents.

    Args:
        model: Takes them all.
        picture: Latents of the picture for each frame; one video serves all.
        alike: 0 to 1 for each frame.
    """

    def __init__(self, model: PromptedModel, picture: Latents, alike: Float[Tensor, " f"]) -> None:
        self.model = model
        mask = alike.to(picture)[:, None, None].expand_as(picture[:, :1])
        self.channels = torch.cat([mask, picture], dim=1)

    def __call__(
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: Any
    ) -> Latents:
        """Predict for all videos, each with the same picture."""
        channels = self.channels.to(latents).expand(len(latents), -1, -1, -1, -1)
        return self.model(torch.cat([latents, channels], dim=1), timestep, prompt_embeds, **conditions)
