"""A small SDXL: two text encoders, size conditions, three blocks; real components with random weights."""

import json
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from tiny_models import (
    SCHEDULER_CONFIG,
    TEXT_WIDTH,
    randomised,
    tiny_adapter,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

SECOND_WIDTH, POOLED_WIDTH, TIME_WIDTH = 20, 5, 3


def tiny_xl_unet() -> UNet2DConditionModel:
    """Attention in the inner blocks only, as SDXL has it."""
    return tiny_unet(
        "three",
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH + SECOND_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * TIME_WIDTH,
        transformer_layers_per_block=(1, 2, 1),
        use_linear_projection=True,
    )


def tiny_second_text_encoder() -> CLIPTextModelWithProjection:
    """Like OpenCLIP's: wider, with a projection of the whole prompt."""
    torch.manual_seed(9)
    first = tiny_text_encoder().config
    config = CLIPTextConfig(
        **{
            key: getattr(first, key)
            for key in ("vocab_size", "num_hidden_layers", "max_position_embeddings", "bos_token_id",
                        "eos_token_id", "pad_token_id")
        },
        hidden_size=SECOND_WIDTH,
        intermediate_size=24,
        num_attention_heads=2,
        projection_dim=POOLED_WIDTH,
    )  # fmt: skip
    return randomised(CLIPTextModelWithProjection(config)).eval()


def save_tiny_xl(folder: Path) -> Path:
    """Write it in the layout of AnimateDiffSDXLPipeline."""
    unet = tiny_xl_unet()
    parts = {
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
        "text_encoder": tiny_text_encoder(),
        "text_encoder_2": tiny_second_text_encoder(),
        "vae": tiny_vae(),
        "unet": unet,
        "motion_adapter": tiny_adapter(unet, norm_scope="clip"),
        "scheduler": EulerDiscreteScheduler(
            **{k: v for k, v in SCHEDULER_CONFIG.items() if k != "clip_sample"}
        ),
    }
    index: dict[str, object] = {
        "_class_name": "AnimateDiffSDXLPipeline", "force_zeros_for_empty_prompt": True
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if name.startswith(("tokenizer", "text")) else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
