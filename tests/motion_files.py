"""Motion modules as they are published, synthesised: real names and dtypes, small widths, random numbers."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_diffusion.models import MotionAdapter

SMALL_SD = (32, 64, 96, 96)
SMALL_XL = (32, 64, 96)

# name -> (widths, mid block, positions)
SHAPES: dict[str, tuple[tuple[int, ...], bool, int]] = {
    "animatediff-v1": (SMALL_SD, False, 24),
    "animatediff-v2": (SMALL_SD, True, 32),
    "animatediff-v3": (SMALL_SD, False, 32),
    "long-animatediff": (SMALL_SD, True, 64),
    "pia": (SMALL_SD, True, 32),
    "animatediff-sdxl": (SMALL_XL, False, 32),
    "hotshot-xl": (SMALL_XL, False, 24),
    "animatelcm": (SMALL_SD, True, 64),
    "animatediff-lightning": (SMALL_SD, True, 32),
}


def published(family: str, widths: tuple[int, ...] | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a family under the names of its published files, written out independently.

    Sources: AnimateDiff's `motion_module.py`, Hotshot-XL's `transformer_temporal.py`.
    """
    torch.manual_seed(5)
    small, mid, positions = SHAPES[family]
    widths = widths or small
    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        tensors[name] = (
            torch.randn(*shape, device=device) if device == "cpu" else torch.empty(shape, device=device)
        )

    def layer(name: str, width: int) -> None:
        for norm in ("norm", "transformer_blocks.0.norms.0", "transformer_blocks.0.norms.1",
                     "transformer_blocks.0.ff_norm"):  # fmt: skip
            add(f"{name}.{norm}.weight", width)
            add(f"{name}.{norm}.bias", width)
        for linear in ("proj_in", "proj_out"):
            add(f"{name}.{linear}.weight", width, width)
            add(f"{name}.{linear}.bias", width)
        for index in (0, 1):
            attention = f"{name}.transformer_blocks.0.attention_blocks.{index}"
            for linear in ("to_q", "to_k", "to_v", "to_out.0"):
                add(f"{attention}.{linear}.weight", width, width)
            add(f"{attention}.to_out.0.bias", width)
            if family != "animatelcm":
                table = "positional_encoding" if family == "hotshot-xl" else "pe"
                tensors[f"{attention}.pos_encoder.{table}"] = sinusoids(positions, width)
        add(f"{name}.transformer_blocks.0.ff.net.0.proj.weight", 8 * width, width)
        add(f"{name}.transformer_blocks.0.ff.net.0.proj.bias", 8 * width)
        add(f"{name}.transformer_blocks.0.ff.net.2.weight", width, 4 * width)
        add(f"{name}.transformer_blocks.0.ff.net.2.bias", width)

    def block(name: str, width: int, count: int) -> None:
        for index in range(count):
            if family == "hotshot-xl":
                layer(f"{name}.temporal_attentions.{index}", width)
            else:
                layer(f"{name}.motion_modules.{index}.temporal_transformer", width)

    for index, width in enumerate(widths):
        block(f"down_blocks.{index}", width, 2)
    for index, width in enumerate(reversed(widths)):
        block(f"up_blocks.{index}", width, 3)
    if mid:
        block("mid_block", widths[-1], 1)
    if family == "pia":
        add("conv_in.weight", widths[0], 9, 3, 3)
        add("conv_in.bias", widths[0])
    return tensors


def sinusoids(positions: int, width: int) -> Tensor:
    """The table of Vaswani et al., one number at a time in double precision."""
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (
        torch.arange(0, width, 2, dtype=torch.float64) / width
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None].float()


def published_file(folder: Path, family: str, **changes: Any) -> Path:
    """A file of a family as it is published, in safetensors."""
    name = "animatediff_lightning_4step_comfyui" if family == "animatediff-lightning" else f"mm-{len(family)}"
    file = folder / f"{name}.safetensors"
    save_file(published(family, **changes), file)
    return file


def stored_bits(adapter: MotionAdapter) -> dict[str, bytes]:
    """Every tensor of an adapter as bytes."""
    return {k: v.contiguous().numpy().tobytes() for k, v in adapter.state_dict().items()}


def original_lora(adapter: MotionAdapter, rank: int = 3) -> dict[str, Tensor]:
    """A motion LoRA as AnimateDiff publishes them, written out independently for every attention."""
    torch.manual_seed(11)
    tensors = {}
    for name, module in adapter.named_modules():
        if not name.endswith(("attn1", "attn2")):
            continue
        block, attention = name.rsplit(".", 1)
        block = block.replace(".transformer_blocks", ".temporal_transformer.transformer_blocks")
        place = f"{block}.attention_blocks.{int(attention[-1]) - 1}.processor"
        width = module.to_q.in_features
        for layer in ("to_q", "to_k", "to_v", "to_out"):
            tensors[f"{place}.{layer}_lora.down.weight"] = torch.randn(rank, width)
            tensors[f"{place}.{layer}_lora.up.weight"] = torch.randn(width, rank) / 9
    return tensors
