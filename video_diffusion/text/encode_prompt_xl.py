"""Prompts as Stable Diffusion XL reads them: two text encoders side by side, and one vector for the whole."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.text.encode_prompt import tokenize


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
        self, tokenizers: Sequence[Any], text_encoders: Sequence[Any], zeros_for_empty: bool
    ) -> None:
        self.tokenizers = tuple(tokenizers)
        self.text_encoders = tuple(text_encoders)
        self.zeros_for_empty = zeros_for_empty

    def prompt_embeds(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Encode each prompt, token by token; the widths of both encoders add up."""
        both = zip(self.tokenizers, self.text_encoders, strict=True)
        hidden = [
            _encoded(encoder, tokenizer, prompts, output_hidden_states=True).hidden_states[-2]
            for tokenizer, encoder in both
        ]
        return self._emptied(torch.cat(hidden, dim=-1), prompts)

    def pooled_embeds(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Encode each prompt as a whole."""
        pooled = _encoded(self.text_encoders[1], self.tokenizers[1], prompts).text_embeds
        return self._emptied(pooled, prompts)

    def _emptied(self, embeds: Tensor, prompts: Sequence[str]) -> Tensor:
        if not self.zeros_for_empty:
            return embeds
        said = torch.tensor([bool(prompt) for prompt in prompts], device=embeds.device)
        return embeds * said.to(embeds.dtype).view(-1, *[1] * (embeds.ndim - 1))


def size_conditions(height: int, width: int, num_videos: int) -> Float[Tensor, "b six"]:
    """Tell an SDXL model how large its picture is: the size it was, where it was cropped, the size it has.

    Args:
        height: Pixels; the picture counts as never resized.
        width: Pixels; nothing counts as cropped.
        num_videos: Of the batch.
    """
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).repeat(num_videos, 1)


def _encoded(text_encoder: Any, tokenizer: Any, prompts: Sequence[str], **options: Any) -> Any:
    tokens = tokenize(prompts, tokenizer, text_encoder)
    with torch.no_grad():
        return text_encoder(tokens.input_ids.to(text_encoder.device), **options)
