"""The models that `benchmark.py` times: ours and diffusers' on the very same weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter as DiffusersMotionAdapter
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.utils import logging
from torch import Tensor

from video_diffusion.models import MotionAdapter, VideoUNet

POOL = 2**20
NUM_TOKENS = 77


@dataclass(frozen=True)
class Shape:
    """What a U-Net is asked for: one video with its negative prompt, so a batch of two.

    Attributes:
        about: In words.
        widths: Channels of the U-Net's blocks.
        num_frames: Frames of the video.
        side: Height and width of the latents.
        cross_attention_dim: Width of the prompt embeddings.
    """

    about: str
    widths: tuple[int, ...]
    num_frames: int
    side: int
    cross_attention_dim: int = 768

    def inputs(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple[Tensor, Tensor]:
        """Latents and prompt embeddings."""
        draw = torch.Generator().manual_seed(seed)
        latents = torch.randn(2, 4, self.num_frames, self.side, self.side, generator=draw)
        embeds = torch.randn(2, NUM_TOKENS, self.cross_attention_dim, generator=draw)
        return latents.to(device, dtype), embeds.to(device, dtype)


SHAPES = {
    "A": Shape("SD 1.5 widths, 8 frames of 16x16 latents, guided", (320, 640, 1280, 1280), 8, 16),
    "B": Shape("half of SD 1.5's widths, 8 frames of 32x32 latents, guided", (160, 320, 640, 640), 8, 32),
    "D": Shape("SD 1.5 at 512x512, 16 frames, guided", (320, 640, 1280, 1280), 16, 64),
    "tiny": Shape("to try this script", (32, 64), 3, 8, 24),
}


def outline(shape: Shape) -> tuple[UNet2DConditionModel, MotionAdapter]:
    """U-Net and temporal layers of a shape, made on the default device in the default precision."""
    few = len(shape.widths) == 2
    blocks: dict[str, Any] = {}
    if few:
        blocks = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
    unet = UNet2DConditionModel(
        sample_size=shape.side,
        block_out_channels=shape.widths,
        cross_attention_dim=shape.cross_attention_dim,
        attention_head_dim=8,
        **blocks,
    )
    # diffusers pools the temporal layers' norm over the clip, so ours must here.
    adapter = MotionAdapter(block_out_channels=shape.widths, norm_scope="clip")
    return unet.eval(), adapter.eval()


def build(shape: Shape, dtype: torch.dtype, device: str) -> tuple[VideoUNet, UNetMotionModel]:
    """Our model and diffusers', sharing every weight."""
    with quiet():
        with torch.device("meta"):
            unet, adapter = outline(shape)
            config = {k: v for k, v in adapter.config.items() if not k.startswith("_")}
            for ours_only in ("norm_scope", "resnet_norm_scope", "family", "noise_type", "noise_alpha"):
                config.pop(ours_only, None)
            theirs = UNetMotionModel.from_unet2d(unet, DiffusersMotionAdapter(**config)).eval()
        for module in (unet, adapter):
            torch.nn.Module.to_empty(module, device=device)
            _fill(module, dtype)
        theirs.load_state_dict({**unet.state_dict(), **adapter.state_dict()}, assign=True)
    return VideoUNet(unet, adapter), theirs


def _fill(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Random weights that keep activations at their size, from a small pool; drawing all takes minutes."""
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(1))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1
        values = pool.repeat(-(-tensor.numel() // POOL))[: tensor.numel()].view(tensor.shape) * scale
        if "norm" in name and name.endswith("weight"):
            values = values + 1
        tensor.data = values.to(tensor.device, dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers says of its own doings."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(level)
