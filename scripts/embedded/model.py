"""The parts of the embedded model at birth, stock classes at a small size, and the folder that it becomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from video_diffusion.models import MotionAdapter
from video_diffusion.procedural import World, vocabulary
from video_diffusion.training.objective import shifted_cosine_betas

MAX_TOKENS = 32


def word_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of `words` is one token and any other text falls apart into bytes.

    Byte-pair merges apply in the order they are listed, so each word is first split by the merges before it
    and then joined
    left to right by new ones: words listed earlier are never disturbed.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(code) for code in printable] + [chr(256 + i) for i in range(len(others))]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while ranked := [(merges.index(p), p) for p in pairwise(pieces) if p in merges]:
            pieces = _merge(pieces, min(ranked)[1])
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _merge(pieces, merges[-1])
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def build_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    """Two CLIP layers whose token embeddings start at N(0, 0.5): words differ loudly from the first step."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    nn.init.normal_(encoder.get_input_embeddings().weight, std=0.5)
    return encoder


def build_unet(
    widths: Sequence[int], text_width: int, latent_channels: int, sample_size: int
) -> UNet2DConditionModel:
    """A U-Net with cross attention on every level, whose text path starts eight times louder than stock.

    Both are needed for a small network to learn directions of motion at all (see the model card).
    """
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("attn2.to_out.0.weight"):
                parameter.mul_(8)
    return unet


def build_motion_adapter(unet: UNet2DConditionModel, max_num_frames: int = 32) -> MotionAdapter:
    """Fresh temporal layers with a mid block, the identity until trained.

    Their norm pools over the clip, as diffusers computes it, so that the result opens there and gives the
    same frames.
    """
    adapter: MotionAdapter = MotionAdapter.for_unet(
        unet, num_attention_heads=4, max_num_frames=max_num_frames, use_mid_block=True, norm_scope="clip"
    )
    return adapter


def build_scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    """Shifted cosine, steps counted from pure noise."""
    return DDIMScheduler(
        trained_betas=shifted_cosine_betas(),
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


DEFAULTS = {
    "num_frames": 16,
    "fps": "8",
    "num_inference_steps": 12,
    "guidance_scale": 2.5,
    "scheduler": "ddim",
}


def load_weights(folder: Path, tokenizer: Any, text_encoder: Any, unet: Any, motion_adapter: Any) -> None:
    """Give the parts the weights of a model folder; words that it did not know keep their fresh embedding."""
    state = load_file(folder / "text_encoder" / "model.safetensors")
    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    (name,) = [name for name in state if name.endswith("token_embedding.weight")]
    embeddings = text_encoder.get_input_embeddings().weight.detach().clone()
    for token, row in tokenizer.get_vocab().items():
        if token in theirs:
            embeddings[row] = state[name][theirs[token]].float()
    text_encoder.load_state_dict({**state, name: embeddings})
    for module, part in ((unet, "unet"), (motion_adapter, "motion_adapter")):
        module.load_state_dict(load_file(folder / part / "diffusion_pytorch_model.safetensors"))


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
