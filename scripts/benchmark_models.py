"""The models that `benchmark.py` times: ours and diffusers' on the very same weights."""

from __future__ import annotations

import inspect
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter as DiffusersMotionAdapter
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.utils import logging
from torch import Tensor

from video_diffusion.models import MotionAdapter, VideoUNet

POOL = 2**20 - 3  # a prime: no two rows of a matrix begin alike
NUM_TOKENS = 77
XL_POOLED = 1280


@dataclass(frozen=True)
class Shape:
    """What a U-Net is asked for: one video with its negative prompt, so a batch of two.

    Attributes:
        about: In words.
        widths: Channels of the U-Net's blocks.
        num_frames: Frames of the video.
        side: Height and width of the latents.
        cross_attention_dim: Width of the prompt embeddings.
        is_xl: Whether it is of SDXL's kind.
    """

    about: str
    widths: tuple[int, ...]
    num_frames: int
    side: int
    cross_attention_dim: int = 768
    is_xl: bool = False

    @property
    def is_tiny(self) -> bool:
        """Whether it is there to try the scripts only."""
        return len(self.widths) == 2

    def conditions(self, dtype: torch.dtype, device: str = "cpu", batch: int = 2) -> dict[str, Any]:
        """What an SDXL U-Net is told besides, for our model and diffusers'."""
        if not self.is_xl:
            return {}
        sizes = torch.tensor([[8.0 * self.side] * 2 + [0.0, 0.0] + [8.0 * self.side] * 2] * batch)
        pooled = torch.randn(batch, XL_POOLED, generator=torch.Generator().manual_seed(2))
        added = {"text_embeds": pooled.to(device, dtype), "time_ids": sizes.to(device, dtype)}
        return {"added_cond_kwargs": added}

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
    "E": Shape("SDXL at 1024x1024, 16 frames, guided", (320, 640, 1280), 16, 128, 2048, is_xl=True),
    "half": Shape("half of SD 1.5's widths, 8 frames of 16x16 latents, guided", (160, 320, 640, 640), 8, 16),
    "tiny": Shape("to try this script", (32, 64), 3, 8, 24),
    "tiny-xl": Shape("to try this script on SDXL's kind", (32, 64), 3, 8, 24, is_xl=True),
}


def outline(shape: Shape) -> tuple[UNet2DConditionModel, MotionAdapter]:
    """U-Net and temporal layers of a shape, made on the default device in the default precision."""
    blocks: dict[str, Any] = {"attention_head_dim": 8}
    if shape.is_tiny:
        blocks |= {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
    elif shape.is_xl:
        blocks = {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
        }
    if shape.is_xl:
        blocks |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": XL_POOLED + 6 * 256,
        }
    unet = UNet2DConditionModel(
        sample_size=shape.side,
        block_out_channels=shape.widths,
        cross_attention_dim=shape.cross_attention_dim,
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
            known = inspect.signature(DiffusersMotionAdapter.__init__).parameters
            config = {name: value for name, value in adapter.config.items() if name in known}
            theirs = UNetMotionModel.from_unet2d(unet, DiffusersMotionAdapter(**config)).eval()
        for module in (unet, adapter):
            torch.nn.Module.to_empty(module, device=device)
            fill(module, dtype)
        theirs.load_state_dict({**unet.state_dict(), **adapter.state_dict()}, assign=True)
    return VideoUNet(unet, adapter), theirs


def build_vae(shape: Shape, dtype: torch.dtype, device: str) -> AutoencoderKL:
    """Stable Diffusion's autoencoder with random weights; a small one for shapes that are for trying."""
    widths = (32, 32, 32, 32) if shape.is_tiny else (128, 256, 512, 512)
    with quiet():
        with torch.device("meta"):
            vae = AutoencoderKL(
                block_out_channels=widths,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ).eval()
        torch.nn.Module.to_empty(vae, device=device)
        fill(vae, dtype)
    return vae


def fill(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Random weights that keep activations at their size, from a small pool; drawing all takes minutes.

    Each tensor begins elsewhere in the pool: compilers merge constants that are equal.
    """
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(1))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1
        values = (
            pool.roll(zlib.crc32(name.encode()) % POOL)
            .repeat(-(-tensor.numel() // POOL))[: tensor.numel()]
            .view(tensor.shape)
            * scale
        )
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
