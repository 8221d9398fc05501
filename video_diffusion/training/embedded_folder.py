"""The embedded model as a folder that diffusers' AnimateDiffPipeline and our own pipeline open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from video_diffusion.data.caption import vocabulary
from video_diffusion.data.scene import World

DEFAULTS = {
    "num_frames": 16,
    "fps": "8",
    "num_inference_steps": 12,
    "guidance_scale": 2.5,
    "scheduler": "ddim",
}


def save_embedded_model(
    folder: Path,
    tokenizer: Any,
    text_encoder: Any,
    unet: Any,
    motion_adapter: Any,
    vae: Any,
    scheduler: Any,
    world: World,
) -> None:
    """Write all parts in half precision, with `model_index.json` and our generation defaults beside them.

    `world` is what the model is said to know: its words are the vocabulary that prompts are held against.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"text_encoder": text_encoder, "unet": unet, "motion_adapter": motion_adapter, "vae": vae}
    for name, module in parts.items():
        _save_half(module, folder / name)
    index = {
        "_class_name": "AnimateDiffPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "motion_adapter": ["diffusers", "MotionAdapter"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    side = int(unet.config.sample_size) * 2 ** (len(vae.config.block_out_channels) - 1)
    defaults = {**DEFAULTS, "height": side, "width": side, "vocabulary": vocabulary(world)}
    _write_json(folder / "generation_defaults.json", defaults)


def _save_half(module: Any, folder: Path) -> None:
    kept = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    try:
        module.to(torch.float16)
        module.save_pretrained(folder)
    finally:
        module.to(torch.float32)
        module.load_state_dict(kept)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
