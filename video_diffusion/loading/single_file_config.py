"""What an image model in one file is, and its configuration, read off its tensors' shapes; takes no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from video_diffusion.loading.weights import StoredTensor


@dataclass(frozen=True)
class SingleFileKind:
    """One kind of image model as its makers publish it.

    Attributes:
        title: For people.
        text_width: Width of the text embeddings that its U-Net reads.
        num_blocks: Blocks of its U-Net.
        sample_size: Latent pixels along each side of its training images.
    """

    title: str
    text_width: int
    num_blocks: int
    sample_size: int


SINGLE_FILE_KINDS: Mapping[str, SingleFileKind] = {
    "sd1": SingleFileKind("Stable Diffusion 1.x", 768, 4, 64),
    "sd2": SingleFileKind("Stable Diffusion 2.x", 1024, 4, 96),
    "sdxl": SingleFileKind("Stable Diffusion XL", 2048, 3, 128),
}

UNET = "model.diffusion_model."
_SD_TEXT = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_XL_TEXT = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def single_file_kind(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Name the kind of image model, a key of `SINGLE_FILE_KINDS`; None if it is none of them."""
    if not any(name.startswith(UNET) for name in tensors):
        return None
    found = tensors.get(_SD_TEXT) or tensors.get(_XL_TEXT)
    if found is None or len(found.shape) != 2:
        return None
    has_fourth_block = f"{UNET}input_blocks.11.0.in_layers.0.weight" in tensors
    for name, kind in SINGLE_FILE_KINDS.items():
        if kind.text_width == found.shape[1] and (kind.num_blocks == 4) == has_fourth_block:
            return name
    return None


Shapes = Mapping[str, tuple[int, ...]]

VAE = "first_stage_model."
CLIP = {
    "sd1": "cond_stage_model.transformer.text_model.",
    "sdxl": "conditioner.embedders.0.transformer.text_model.",
}
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
HEAD_WIDTH = 64  # of all text encoders, and of the U-Nets of SD 2 and XL
SD1_HEADS = 8
SCALING = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def lacking_parts(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """What a whole image model has and a file of a known kind does not, as some are published."""
    parts = {
        "vae": ("autoencoder (first_stage_model.…)", (VAE,)),
        "text_encoder": ("text encoder (cond_stage_model.…)", (*CLIP.values(), *OPEN_CLIP.values())),
    }
    return {
        part: words
        for part, (words, prefixes) in parts.items()
        if not any(name.startswith(prefixes) for name in tensors)
    }


def unet_config(shapes: Shapes, kind: str) -> dict[str, Any]:
    """Fields of `UNet2DConditionModel`."""
    num_blocks = SINGLE_FILE_KINDS[kind].num_blocks
    widths, depths = [], []
    for level in range(num_blocks):
        first = f"{UNET}input_blocks.{1 + 3 * level}."
        widths.append(shapes[f"{first}0.out_layers.3.weight"][0])
        depths.append(_count(shapes, f"{first}1.transformer_blocks."))
    middle = _count(shapes, f"{UNET}middle_block.1.transformer_blocks.")
    layers = (*(max(depth, 1) for depth in depths[:-1]), middle)
    with_attention = next(level for level in range(num_blocks) if depths[level])
    projection = shapes[f"{UNET}input_blocks.{1 + 3 * with_attention}.1.proj_in.weight"]
    config: dict[str, Any] = {
        "sample_size": SINGLE_FILE_KINDS[kind].sample_size,
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": tuple(widths),
        "layers_per_block": 2,
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
        "transformer_layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "cross_attention_dim": SINGLE_FILE_KINDS[kind].text_width,
        "attention_head_dim": (
            SD1_HEADS if kind == "sd1" else tuple(max(width // HEAD_WIDTH, 1) for width in widths)
        ),
        "use_linear_projection": len(projection) == 2,
    }
    if kind == "sdxl":
        added = shapes[f"{UNET}label_emb.0.0.weight"][1]
        pooled = shapes[f"{OPEN_CLIP[kind]}text_projection"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (added - pooled) // 6,
            "projection_class_embeddings_input_dim": added,
        }
    return config


def vae_config(shapes: Shapes, kind: str) -> dict[str, Any]:
    """Fields of `AutoencoderKL`."""
    levels = _count(shapes, f"{VAE}encoder.down.")
    widths = [shapes[f"{VAE}encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
    return {
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": _count(shapes, f"{VAE}encoder.down.0.block."),
        "latent_channels": shapes[f"{VAE}post_quant_conv.weight"][1],
        "sample_size": SINGLE_FILE_KINDS[kind].sample_size * 8,
        "scaling_factor": SCALING[kind],
    }


def text_config(shapes: Shapes, kind: str) -> dict[str, Any]:
    """Fields of `CLIPTextConfig` for OpenAI's text encoder."""
    prefix = CLIP[kind]
    vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    return {
        **_common_text(vocabulary, width),
        "intermediate_size": shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, f"{prefix}encoder.layers."),
        "max_position_embeddings": shapes[f"{prefix}embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        "projection_dim": width,
    }


def open_clip_config(shapes: Shapes, kind: str) -> dict[str, Any]:
    """Fields of `CLIPTextConfig` for OpenCLIP's text encoder; SD 2 leaves its last layer out."""
    prefix = OPEN_CLIP[kind]
    vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
    return {
        **_common_text(vocabulary, width),
        "intermediate_size": shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(shapes, f"{prefix}transformer.resblocks.") - (kind == "sd2"),
        "max_position_embeddings": shapes[f"{prefix}positional_embedding"][0],
        "hidden_act": "gelu",
        "projection_dim": shapes[f"{prefix}text_projection"][1],
    }


def _common_text(vocabulary: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": width // HEAD_WIDTH,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered parts follow a prefix."""
    numbers = [re.match(r"\d+", name[len(prefix) :]) for name in shapes if name.startswith(prefix)]
    return 1 + max((int(found[0]) for found in numbers if found is not None), default=-1)
