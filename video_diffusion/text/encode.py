"""Prompts to embeddings, as Stable Diffusion and SDXL read them; words a small model has never seen."""

import re
import warnings
from collections.abc import Collection, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPTextModel,
    CLIPTextModelOutput,
    CLIPTextModelWithProjection,
)
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from video_diffusion.settings import shown

Tokenizer: TypeAlias = CLIPTokenizer
TextEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


def encode_prompt(
    prompts: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder
) -> Float[Tensor, "b n d"]:
    """Encode each prompt to the text encoder's last hidden states, as Stable Diffusion reads them.

    Every prompt is padded to the encoder's full length; the empty prompt is what guidance steers away from
    when there is no negative prompt. A prompt that is too long is cut, with a warning that quotes what was
    lost.

    Args:
        prompts: One for each video.
        tokenizer: Made for the text encoder.
        text_encoder: Its dtype and device are those of the result.
    """
    return _encoded(prompts, tokenizer, text_encoder).last_hidden_state


def _encoded(
    prompts: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder, with_hidden_states: bool = False
) -> CLIPTextModelOutput | BaseModelOutputWithPooling:
    """What a text encoder makes of prompts, padded to its full length; warns of prompts that are too long."""
    num_tokens = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    for prompt in dict.fromkeys(prompts):
        kept = tokenizer(prompt, max_length=num_tokens, truncation=True).input_ids
        # A length that no prompt reaches: without one, transformers prints a warning of its own.
        whole = tokenizer(prompt, max_length=2**30, truncation=True).input_ids
        if len(whole) > len(kept):
            lost = tokenizer.decode(whole[num_tokens - 1 : -1]).strip()
            warnings.warn(
                f"prompt has {len(whole) - 2} tokens but this text encoder reads {num_tokens - 2}; "
                f"dropped its end: {shown(lost)}; shorten it",
                stacklevel=3,
            )
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=num_tokens, truncation=True, return_tensors="pt"
    )
    reads_mask = getattr(text_encoder.config, "use_attention_mask", False)
    with torch.no_grad():
        return text_encoder(
            tokens.input_ids.to(text_encoder.device),
            attention_mask=tokens.attention_mask.to(text_encoder.device) if reads_mask else None,
            output_hidden_states=with_hidden_states,
        )


# Prompts as Stable Diffusion XL reads them: two text encoders side by side, and one vector for the whole.


class XlTextEncoders:
    """The two text encoders of an SDXL model (Podell et al. 2023, section 2.1).

    A U-Net reads the second last hidden states of both, one behind the other, and besides the second one's
    projection of the whole prompt.

    Args:
        tokenizers: Of the first and the second.
        text_encoders: A `CLIPTextModel` and a `CLIPTextModelWithProjection`.
        zeros_for_empty: Whether the empty prompt is all zeros instead of what the encoders make of it, as
            SDXL was trained (`force_zeros_for_empty_prompt`).
    """

    def __init__(
        self, tokenizers: Sequence[Tokenizer], text_encoders: Sequence[TextEncoder], zeros_for_empty: bool
    ) -> None:
        self.tokenizers = tuple(tokenizers)
        self.text_encoders = tuple(text_encoders)
        self.zeros_for_empty = zeros_for_empty

    def prompt_embeds(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Encode each prompt, token by token; the widths of both encoders add up."""
        both = zip(self.tokenizers, self.text_encoders, strict=True)
        hidden = [
            _encoded(prompts, tokenizer, encoder, with_hidden_states=True).hidden_states[-2]
            for tokenizer, encoder in both
        ]
        return self._emptied(torch.cat(hidden, dim=-1), prompts)

    def pooled_embeds(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Encode each prompt as a whole."""
        pooled = _encoded(prompts, self.tokenizers[1], self.text_encoders[1]).text_embeds
        return self._emptied(pooled, prompts)

    def _emptied(self, embeds: Tensor, prompts: Sequence[str]) -> Tensor:
        if not self.zeros_for_empty:
            return embeds
        said = torch.tensor([bool(prompt) for prompt in prompts], device=embeds.device)
        return embeds * said.to(embeds.dtype).view(-1, *[1] * (embeds.ndim - 1))


def size_conditions(height: int, width: int, num_videos: int) -> Float[Tensor, "b six"]:
    """Tell an SDXL model how large its image is: the size it was, where it was cropped, the size it has.

    Args:
        height: Pixels; the image counts as never resized.
        width: Pixels; nothing counts as cropped.
        num_videos: Of the batch.
    """
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).repeat(num_videos, 1)


# Which words of a prompt a small model has never seen.


_WORD = re.compile(r"\w+(?:['’-]\w+)*|[\u2600-\u27bf\U0001f000-\U0001faff]")  # an emoji is a word too


def unknown_words(prompt: str, vocabulary: Collection[str]) -> list[str]:
    """List the words of a prompt that are not in a model's vocabulary, each once, in order, in lower case.

    Args:
        prompt: Any text; punctuation and case do not matter.
        vocabulary: Words the model was trained on, in lower case. Empty means unknown: then no word is
            listed.
    """
    if not vocabulary:
        return []
    words = dict.fromkeys(_WORD.findall(prompt.lower()))
    return [word for word in words if word not in vocabulary]
