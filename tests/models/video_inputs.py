"""Latents, timesteps and prompts for a small video U-Net, and the image model's answer to them."""

import torch
from tiny_models import TEXT_WIDTH
from torch import Tensor, nn

NUM_VIDEOS, NUM_FRAMES = 2, 5


def inputs(num_frames: int = NUM_FRAMES, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    latents = torch.randn(NUM_VIDEOS, 4, num_frames, 6, 10, dtype=dtype)
    prompt_embeds = torch.randn(NUM_VIDEOS, 7, TEXT_WIDTH, dtype=dtype)
    return latents, torch.tensor([20, 700]), prompt_embeds


def frame_by_frame(unet: nn.Module, latents: Tensor, *conditions: Tensor, **more: object) -> Tensor:
    """The image model, once for each frame."""
    return torch.stack([unet(frame, *conditions, **more).sample for frame in latents.unbind(2)], dim=2)
