"""A small video U-Net, and latents and prompts for its passes."""

from typing import Any

import torch
from tiny_models import TEXT_WIDTH, randomised, tiny_adapter, tiny_unet
from torch import Tensor, nn

from video_diffusion.models import VideoUNet

NUM_VIDEOS, NUM_FRAMES, NUM_TOKENS, HEIGHT, WIDTH = 2, 5, 7, 12, 8


def video_unet(
    dtype: torch.dtype = torch.float64, blocks: str = "mixed", scope: str = "frame", **changes: Any
) -> VideoUNet:
    unet = nn.Module.to(randomised(tiny_unet(blocks, **changes)), dtype)
    return VideoUNet(unet, tiny_adapter(unet, norm_scope=scope))


def latents_of(num_frames: int = NUM_FRAMES, dtype: torch.dtype = torch.float64, seed: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_VIDEOS, 4, num_frames, HEIGHT, WIDTH, dtype=dtype, generator=draw)


def prompts_of(*frames: int, dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_VIDEOS, *frames, NUM_TOKENS, TEXT_WIDTH, dtype=dtype, generator=draw)


def root_mean_square_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
