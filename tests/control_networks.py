"""Small ControlNets and SparseCtrl encoders for the tiny models, every weight random, and what they read."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from motion_files import sinusoids
from PIL import Image
from tiny_models import TEXT_WIDTH, randomised, tiny_unet
from torch import Tensor


def tiny_controlnet(**changes: Any) -> ControlNetModel:
    """For `tiny_unet`, and pictures twice as large as latents."""
    torch.manual_seed(21)
    network = ControlNetModel.from_unet(tiny_unet(**changes), conditioning_embedding_out_channels=(6, 10))
    return randomised(network).eval()


def tiny_sparse_control(reads: str, **changes: Any) -> SparseControlNetModel:
    """For `tiny_unet`: "rgb" reads latents, "scribble" pixels."""
    torch.manual_seed(22)
    settings: dict[str, Any] = {
        "conditioning_channels": 4 if reads == "rgb" else 3,
        "use_simplified_condition_embedding": reads == "rgb",
        "conditioning_embedding_out_channels": (6, 10),
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "motion_num_attention_heads": 2,
        "motion_max_seq_length": 7,
    }
    return randomised(SparseControlNetModel(**(settings | changes))).eval()


def save_control_networks(folder: Path, unet: Any) -> tuple[str, str]:
    """A ControlNet and a SparseCtrl encoder for any U-Net of Stable Diffusion 1.5's kind; their folders."""
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(6, 10))
    names = ("block_out_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups")
    sizes = {name: unet.config[name] for name in names}
    types = [name.replace("Block2D", "BlockMotion") for name in unet.config.down_block_types]
    randomised(controlnet).save_pretrained(folder / "controlnet")
    tiny_sparse_control("rgb", down_block_types=types, **sizes).save_pretrained(folder / "sparse")
    return str(folder / "controlnet"), str(folder / "sparse")


def save_pictures(folder: Path, count: int, height: int = 16, width: int = 24, seed: int = 5) -> Path:
    """A folder of numbered pictures, each its own noise."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    return folder


def published_sparse_control(
    reads: str, widths: tuple[int, ...] = (32, 64, 64, 96), text_width: int = 768, positions: bool = True
) -> dict[str, Tensor]:
    """A SparseCtrl encoder's tensors under AnimateDiff's names, written out independently.

    Source: its `sparse_controlnet.py` and `unet_blocks.py`: two layers in each block, cross attention in all
    but the last, one temporal self-attention after each layer, none in the middle.
    """
    torch.manual_seed(23)
    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = torch.randn(*shape) / max(torch.Size(shape[1:]).numel(), 1) ** 0.5
        if bias:
            tensors[f"{name}.bias"] = torch.randn(shape[0]) / 5

    def resnet(name: str, before: int, after: int) -> None:
        add(f"{name}.norm1", before)
        add(f"{name}.conv1", after, before, 3, 3)
        add(f"{name}.time_emb_proj", after, 4 * widths[0])
        add(f"{name}.norm2", after)
        add(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            add(f"{name}.conv_shortcut", after, before, 1, 1)

    def attention(name: str, width: int, reads_width: int) -> None:
        for part in ("to_q", "to_k", "to_v"):
            add(f"{name}.{part}", width, width if part == "to_q" else reads_width, bias=False)
        add(f"{name}.to_out.0", width, width)

    def feed_forward(name: str, width: int) -> None:
        add(f"{name}.net.0.proj", 8 * width, width)
        add(f"{name}.net.2", width, 4 * width)

    def spatial(name: str, width: int) -> None:
        add(f"{name}.norm", width)
        add(f"{name}.proj_in", width, width, 1, 1)
        block = f"{name}.transformer_blocks.0"
        attention(f"{block}.attn1", width, width)
        attention(f"{block}.attn2", width, text_width)
        feed_forward(f"{block}.ff", width)
        for norm in ("norm1", "norm2", "norm3"):
            add(f"{block}.{norm}", width)
        add(f"{name}.proj_out", width, width, 1, 1)

    def temporal(name: str, width: int) -> None:
        add(f"{name}.norm", width)
        add(f"{name}.proj_in", width, width)
        block = f"{name}.transformer_blocks.0"
        attention(f"{block}.attention_blocks.0", width, width)
        if positions:
            tensors[f"{block}.attention_blocks.0.pos_encoder.pe"] = sinusoids(32, width)
        add(f"{block}.norms.0", width)
        feed_forward(f"{block}.ff", width)
        add(f"{block}.ff_norm", width)
        add(f"{name}.proj_out", width, width)

    add("conv_in", widths[0], 4, 3, 3)
    if reads == "rgb":
        add("controlnet_cond_embedding", widths[0], 5, 3, 3)
    else:
        stack = (16, 32, 96, 256)
        add("controlnet_cond_embedding.conv_in", stack[0], 4, 3, 3)
        for index, (before, after) in enumerate(pairwise(stack)):
            add(f"controlnet_cond_embedding.blocks.{2 * index}", before, before, 3, 3)
            add(f"controlnet_cond_embedding.blocks.{2 * index + 1}", after, before, 3, 3)
        add("controlnet_cond_embedding.conv_out", widths[0], stack[-1], 3, 3)
    add("time_embedding.linear_1", 4 * widths[0], widths[0])
    add("time_embedding.linear_2", 4 * widths[0], 4 * widths[0])
    skips, before = [widths[0]], widths[0]
    for index, width in enumerate(widths):
        block, is_last = f"down_blocks.{index}", index == len(widths) - 1
        for layer in (0, 1):
            resnet(f"{block}.resnets.{layer}", before, width)
            if not is_last:
                spatial(f"{block}.attentions.{layer}", width)
            temporal(f"{block}.motion_modules.{layer}.temporal_transformer", width)
            before = width
            skips.append(width)
        if not is_last:
            add(f"{block}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(width)
    for layer in (0, 1):
        resnet(f"mid_block.resnets.{layer}", widths[-1], widths[-1])
    spatial("mid_block.attentions.0", widths[-1])
    for index, width in enumerate(skips):
        add(f"controlnet_down_blocks.{index}", width, width, 1, 1)
    add("controlnet_mid_block", widths[-1], widths[-1], 1, 1)
    return tensors
