"""Prompts to the embeddings that steer the U-Net."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.config import shown


def encode_prompt(prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Float[Tensor, "b n d"]:
    """Encode each prompt to the text encoder's last hidden states, as Stable Diffusion reads them.

    Every prompt is padded to the encoder's full length; the empty prompt is what guidance steers away from
    when there is no negative prompt. A prompt that is too long is cut, with a warning that quotes what was
    lost.

    Args:
        prompts: One for each video.
        tokenizer: A `CLIPTokenizer`.
        text_encoder: The `CLIPTextModel` for it; its dtype and device are those of the result.
    """
    tokens = tokenize(prompts, tokenizer, text_encoder)
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(text_encoder.device)
    with torch.no_grad():
        return text_encoder(tokens.input_ids.to(text_encoder.device), attention_mask=mask).last_hidden_state


def tokenize(prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Any:
    """Turn prompts to tokens, padded to the encoder's full length; warns of prompts that are too long."""
    num_tokens = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    for prompt in dict.fromkeys(prompts):
        _warn_if_cut(prompt, tokenizer, num_tokens)
    return tokenizer(
        list(prompts), padding="max_length", max_length=num_tokens, truncation=True, return_tensors="pt"
    )


def _warn_if_cut(prompt: str, tokenizer: Any, num_tokens: int) -> None:
    kept = tokenizer(prompt, max_length=num_tokens, truncation=True).input_ids
    # A length that no prompt reaches: without one, transformers prints a warning of its own.
    whole = tokenizer(prompt, max_length=2**30, truncation=True).input_ids
    if len(whole) > len(kept):
        lost = tokenizer.decode(whole[num_tokens - 1 : -1]).strip()
        warnings.warn(
            f"prompt has {len(whole) - 2} tokens but this text encoder reads {num_tokens - 2}; "
            f"dropped its end: {shown(lost)}; shorten it",
            stacklevel=4,
        )
