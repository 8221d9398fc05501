"""Small real components with random weights: a text-to-video model in a few thousand parameters."""

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from video_diffusion.models import MotionAdapter

TEXT_WIDTH = 12
BLOCKS = {
    "mixed": (("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")),
    "attention": (
        ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "three": (
        ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "four": (
        ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
}


def tiny_unet(blocks: str = "mixed", seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """An image U-Net of one of `BLOCKS`' layouts, in float32."""
    torch.manual_seed(seed)
    down, up = BLOCKS[blocks]
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": (8, 16, 24, 32)[: len(down)],
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


def tiny_adapter(unet: UNet2DConditionModel, seed: int = 1, **changes: Any) -> MotionAdapter:
    """An adapter for `unet` whose every weight is random, so that nothing is the identity."""
    torch.manual_seed(seed)
    adapter = MotionAdapter.for_unet(unet, **({"num_attention_heads": 2, "max_num_frames": 9} | changes))
    # Drawn in float32, since diffusers' motion U-Net rounds to it when it is made from an image U-Net.
    return randomised(adapter.float()).to(unet.dtype).eval()


def tiny_tokenizer() -> CLIPTokenizer:
    """Reads text letter by letter, at most 14 tokens of it between the two marks."""
    letters = string.ascii_lowercase + string.digits + ",.'"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def tiny_text_encoder(seed: int = 2) -> CLIPTextModel:
    """The text encoder for `tiny_tokenizer` and `tiny_unet`."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return randomised(CLIPTextModel(config)).eval()


def tiny_vae(seed: int = 3, **changes: Any) -> AutoencoderKL:
    """Halves each side; four latent channels."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "latent_channels": 4,
        "norm_num_groups": 2,
        "scaling_factor": 0.7,
    }
    return AutoencoderKL(**(settings | changes)).eval()


SCHEDULER_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "timestep_spacing": "linspace",
}


def randomised(module: Any) -> Any:
    """Draw every parameter anew, matrices so that activations keep their size."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    return module


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def save_tiny_model(folder: Path, norm_scope: str = "clip", **defaults: Any) -> Path:
    """Write a whole model in the layout of AnimateDiffPipeline, made of the parts above."""
    unet = tiny_unet()
    parts = {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": tiny_text_encoder(),
        "vae": tiny_vae(),
        "unet": unet,
        "motion_adapter": tiny_adapter(unet, norm_scope=norm_scope),
        "scheduler": DDIMScheduler(**SCHEDULER_CONFIG),
    }
    index = {"_class_name": "AnimateDiffPipeline"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if name in {"tokenizer", "text_encoder"} else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    if defaults:
        (folder / "generation_defaults.json").write_text(json.dumps(defaults))
    return folder
