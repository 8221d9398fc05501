"""A model's text encoders, one or SDXL's two; words that a small model has never seen."""

import re
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.settings import shown
from video_diffusion.text.prompts import (
    PLAIN,
    Chunk,
    PromptReading,
    TextEncoder,
    Tokenizer,
    encode_chunks,
    num_tokens_of,
    plain_chunks,
    run_encoder,
    split_chunks,
)


def encode_prompt(
    prompts: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder
) -> Float[Tensor, "b n d"]:
    """Encode each prompt to the text encoder's last hidden states, as Stable Diffusion reads them.

    Every sign is a letter, and every prompt is padded to the encoder's full length; the empty prompt is what
    guidance steers away from when there is no negative prompt. A prompt that is too long is cut, with a
    warning that quotes what was lost.

    Args:
        prompts: One for each video.
        tokenizer: Made for the text encoder.
        text_encoder: Its dtype and device are those of the result.

    >>> from video_diffusion.loading import load_model
    >>> parts = load_model("embedded")
    >>> encode_prompt(["a red circle", ""], parts.tokenizer, parts.text_encoder).shape
    torch.Size([2, 32, 128])
    """
    return TextEncoders([tokenizer], [text_encoder]).prompt_embeds(prompts)


class TextEncoders:
    """The text encoder of a model, or the two of an SDXL model (Podell et al. 2023, section 2.1).

    Of two, a U-Net reads the second last hidden states of both, one behind the other, and besides the second
    one's projection of the whole prompt.

    Args:
        tokenizers: One for each encoder.
        text_encoders: A `CLIPTextModel`, and of SDXL a `CLIPTextModelWithProjection`.
        zeros_for_empty: Whether the empty prompt is all zeros instead of what the encoders make of it, as
            SDXL was trained (`force_zeros_for_empty_prompt`).

    >>> from video_diffusion.loading import load_model
    >>> text = load_model("embedded").text_encoders
    >>> text.prompt_embeds(["a (red:1.2) circle BREAK moving left"], PromptReading("a1111")).shape
    torch.Size([1, 64, 128])
    """

    def __init__(
        self,
        tokenizers: Sequence[Tokenizer],
        text_encoders: Sequence[TextEncoder],
        zeros_for_empty: bool = False,
    ) -> None:
        self.tokenizers = tuple(tokenizers)
        self.text_encoders = tuple(text_encoders)
        self.zeros_for_empty = zeros_for_empty

    @property
    def chunk_tokens(self) -> int:
        """Tokens that a chunk has in the result, its start and end included."""
        return num_tokens_of(*self._pairs[0])

    def num_chunks(self, prompts: Sequence[str], reading: PromptReading = PLAIN) -> int:
        """Count the chunks of the longest of some prompts."""
        if reading.syntax == "plain":
            return 1
        return max(len(self._chunks([prompt], reading, 0)[0]) for prompt in prompts)

    def prompt_embeds(
        self,
        prompts: Sequence[str],
        reading: PromptReading = PLAIN,
        num_chunks: int | None = None,
        name: str = "prompt",
    ) -> Float[Tensor, "b n d"]:
        """Encode each prompt, token by token; the widths of two encoders add up.

        Args:
            prompts: One for each video.
            reading: Syntax, layer and embeddings.
            num_chunks: Of each in the result, at least those of the longest one; None is these.
            name: Which text it is, for warnings.
        """
        is_xl = len(self.text_encoders) > 1
        embeds = []
        for number, (tokenizer, encoder) in enumerate(self._pairs):
            chunks = self._chunks(prompts, reading, number, name)
            count = num_chunks or max(map(len, chunks))
            embeds.append(encode_chunks(chunks, count, tokenizer, encoder, reading, is_xl))
        return self._emptied(torch.cat(embeds, dim=-1), prompts)

    def pooled_embeds(self, prompts: Sequence[str], reading: PromptReading = PLAIN) -> Float[Tensor, "b d"]:
        """Encode each prompt as a whole: its first chunk, without weights."""
        number = len(self.text_encoders) - 1
        tokenizer, encoder = self._pairs[number]
        first = [chunks[0] for chunks in self._chunks(prompts, reading, number)]
        return self._emptied(run_encoder(first, tokenizer, encoder, False).text_embeds, prompts)

    @property
    def _pairs(self) -> list[tuple[Tokenizer, TextEncoder]]:
        return list(zip(self.tokenizers, self.text_encoders, strict=True))

    def _chunks(
        self, prompts: Sequence[str], reading: PromptReading, number: int, name: str = "prompt"
    ) -> list[list[Chunk]]:
        """The chunks of each prompt for one of the encoders."""
        tokenizer, encoder = self._pairs[number]
        length = num_tokens_of(tokenizer, encoder) - 2
        if reading.syntax == "plain":
            return [[chunk] for chunk in plain_chunks(prompts, tokenizer, length, name)]
        return [split_chunks(prompt, tokenizer, length, reading, number) for prompt in prompts]

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


SHOWN_WORDS = 60


def unknown_words_note(prompt: str, vocabulary: Collection[str]) -> str | None:
    """Say which words of a prompt mean nothing to a model, and which ones do; None if it knows all."""
    unknown = unknown_words(prompt, vocabulary)
    if not unknown:
        return None
    words = ", ".join(shown(word) for word in unknown[:10])
    known = ", ".join(sorted(vocabulary)[:SHOWN_WORDS])
    more = f" and {len(vocabulary) - SHOWN_WORDS} more" if len(vocabulary) > SHOWN_WORDS else ""
    return f"this model never learned {words}; the words it knows: {known}{more}"
