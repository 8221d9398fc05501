"""A whole model to a folder that this project and `diffusers.AnimateDiffPipeline` open."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from video_diffusion.io import atomic_path
from video_diffusion.loading.components import quiet_libraries
from video_diffusion.loading.model_folder import DEFAULTS_FILE
from video_diffusion.loading.model_parts import ModelParts


def save_model(parts: ModelParts, folder: Path | str, overwrite: bool = True) -> None:
    """Write all parts in the layout of `AnimateDiffPipeline`, or `AnimateDiffSDXLPipeline` for an SDXL model.

    The weights are safetensors, in their present precision.

    Args:
        parts: The model; its image U-Net is written as the image model that it is.
        folder: Appears only when it is complete.
        overwrite: False refuses an existing folder.

    Raises:
        FileExistsError: See `overwrite`.
        OSError: No space, no permission.
        ValueError: The weights are quantised.
    """
    if parts.quantize is not None:
        raise ValueError(
            f"quantised weights cannot be written; load the model without quantize {parts.quantize}"
        )
    scheduler = parts.scheduler_config.get("_class_name", "DDIMScheduler")
    index: dict[str, Any] = {
        "_class_name": "AnimateDiffPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "motion_adapter": ["diffusers", "MotionAdapter"],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", type(parts.text_encoder).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(parts.vae).__name__],
    }
    names = ["tokenizer", "text_encoder", "unet", "motion_adapter", "vae"]
    if parts.text_encoder_2 is not None:
        names += ["tokenizer_2", "text_encoder_2"]
        index |= {
            "_class_name": "AnimateDiffSDXLPipeline",
            "text_encoder_2": ["transformers", type(parts.text_encoder_2).__name__],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": parts.zeros_for_empty_prompt,
        }
    with atomic_path(folder, overwrite=overwrite) as part, quiet_libraries():
        part.mkdir()
        for name in names:
            getattr(parts, name).save_pretrained(part / name)
        (part / "scheduler").mkdir()
        scheduler_config = {"_class_name": scheduler} | dict(parts.scheduler_config)
        _write(part / "scheduler" / "scheduler_config.json", scheduler_config)
        _write(part / "model_index.json", index)
        if parts.defaults:
            _write(part / DEFAULTS_FILE, parts.defaults)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
