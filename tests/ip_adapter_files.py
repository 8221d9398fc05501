"""IP-Adapters as they are published, synthesised: real names, small widths, random numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_models import randomised
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

VECTOR_WIDTH, PATCH_WIDTH, SIDE = 10, 18, 12
PLUS_WIDTH, PLUS_TOKENS = 64, 3


def tiny_image_encoder(**changes: Any) -> CLIPVisionModelWithProjection:
    torch.manual_seed(11)
    settings: dict[str, Any] = {
        "hidden_size": PATCH_WIDTH,
        "intermediate_size": 22,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 4,
        "projection_dim": VECTOR_WIDTH,
    }
    return randomised(CLIPVisionModelWithProjection(CLIPVisionConfig(**(settings | changes)))).eval()


def ip_adapter_tensors(unet: Any, kind: str = "image", text_width: int | None = None) -> dict[str, Tensor]:
    """The tensors of ip-adapter_sd15 ("image"), ip-adapter-plus_sd15 or ip-adapter-full-face_sd15.

    Source: the names that diffusers' `_convert_ip_adapter_image_proj_to_diffusers` reads.
    """
    torch.manual_seed(12)
    width = text_width or unet.config.cross_attention_dim
    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        tensors[name] = torch.randn(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        add(f"image_proj.{name}.weight", rows, columns)
        if bias:
            add(f"image_proj.{name}.bias", rows)

    def norm(name: str, size: int) -> None:
        add(f"image_proj.{name}.weight", size)
        add(f"image_proj.{name}.bias", size)

    if kind == "image":
        linear("proj", 4 * width, VECTOR_WIDTH)
        norm("norm", width)
    elif kind == "full":
        linear("proj.0", PATCH_WIDTH, PATCH_WIDTH)
        linear("proj.2", width, PATCH_WIDTH)
        norm("proj.3", width)
    elif kind == "plus":
        add("image_proj.latents", 1, PLUS_TOKENS, PLUS_WIDTH)
        linear("proj_in", PLUS_WIDTH, PATCH_WIDTH)
        linear("proj_out", width, PLUS_WIDTH)
        norm("norm_out", width)
        for layer in range(4):
            norm(f"layers.{layer}.0.norm1", PLUS_WIDTH)
            norm(f"layers.{layer}.0.norm2", PLUS_WIDTH)
            linear(f"layers.{layer}.0.to_q", PLUS_WIDTH, PLUS_WIDTH, bias=False)
            linear(f"layers.{layer}.0.to_kv", 2 * PLUS_WIDTH, PLUS_WIDTH, bias=False)
            linear(f"layers.{layer}.0.to_out", PLUS_WIDTH, PLUS_WIDTH, bias=False)
            norm(f"layers.{layer}.1.0", PLUS_WIDTH)
            linear(f"layers.{layer}.1.1", 4 * PLUS_WIDTH, PLUS_WIDTH, bias=False)
            linear(f"layers.{layer}.1.3", PLUS_WIDTH, 4 * PLUS_WIDTH, bias=False)
    elif kind == "face":
        linear("proj.0", 12, 6)
        linear("proj.2", 4 * width, 12)
        norm("norm", width)
    layers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for index, name in enumerate(layers):
        rows = unet.get_submodule(name.removesuffix(".processor")).inner_dim
        for part in ("to_k_ip", "to_v_ip"):
            add(f"ip_adapter.{2 * index + 1}.{part}.weight", rows, width)
    return tensors


def save_tiny_ip_adapter(folder: Path, unet: Any, kind: str = "image", **encoder: Any) -> Path:
    """Write it as h94/IP-Adapter lies: models/NAME.safetensors and models/image_encoder/."""
    models = folder / "models"
    models.mkdir(parents=True)
    file = models / f"ip-adapter-{kind}.safetensors"
    save_file(ip_adapter_tensors(unet, kind), file)
    tiny_image_encoder(**encoder).save_pretrained(models / "image_encoder")
    return file


def save_picture(path: Path, seed: int, height: int = 20, width: int = 31) -> str:
    """Smooth colours: resizing must matter, and not only noise."""
    coarse = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return str(path)
