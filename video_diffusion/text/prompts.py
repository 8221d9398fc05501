"""Prompts of any length with weights and embeddings: chunks of tokens, encoded one by one and weighted.

Each chunk holds as many tokens as the text encoder reads (75 for CLIP) between a start and an end of its own.
The encoded chunks stand one behind the other. With z the encoding of a chunk, z∅ that of the empty prompt and
w a token's weight, the weights are applied as

    a1111   z′ = w·z · mean(z) / mean(w·z), the mean over all tokens and channels of the chunk
            (AUTOMATIC1111/stable-diffusion-webui, modules/sd_emphasis.py, "Original")
    comfy   z′ = z∅ + w·(z - z∅), token by token (comfyanonymous/ComfyUI, comfy/sd1_clip.py)
    plain   z′ = z: brackets are letters, and what is longer than a chunk is cut

A chunk whose weights are all 1 is left bit for bit. The pooled vector of SDXL is that of the first chunk,
without weights, in both programs.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPTextModel,
    CLIPTextModelOutput,
    CLIPTextModelWithProjection,
)
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from video_diffusion.settings import PromptSyntax, Segment, parse_prompt, shown, split_at_embeddings

Tokenizer: TypeAlias = CLIPTokenizer
TextEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection
Token: TypeAlias = int | Float[Tensor, " d"]
"""A row of the encoder's table, or a vector of an embedding in its place."""

COMMA_REACH = 20 / 75  # of a chunk: A1111 moves what follows a comma so near the end to the next chunk
LARGE_WORD = 8  # tokens: a longer word is broken at the end of a chunk (ComfyUI)


@dataclass(frozen=True)
class PromptReading:
    """How prompts are read.

    Attributes:
        syntax: See the module.
        clip_skip: Layer of the text encoder, counted from the end; None is the model's usual one.
        embeddings: For each word, in lower case, the vectors that stand for it, one array for each text
            encoder of the model.
    """

    syntax: PromptSyntax = "plain"
    clip_skip: int | None = None
    embeddings: Mapping[str, Sequence[Float[Tensor, "_ _"]]] = field(default_factory=dict)


PLAIN = PromptReading()


@dataclass(frozen=True)
class Chunk:
    """What a text encoder reads at once, without start and end, and the weight of each token."""

    tokens: tuple[Token, ...] = ()
    weights: tuple[float, ...] = ()


def num_tokens_of(tokenizer: Tokenizer, text_encoder: TextEncoder) -> int:
    """Tokens that a text encoder reads at once, start and end included."""
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def split_chunks(
    prompt: str, tokenizer: Tokenizer, chunk_length: int, reading: PromptReading, encoder: int = 0
) -> list[Chunk]:
    """Lay a prompt out in chunks.

    A chunk that is full ends where A1111 or ComfyUI end it: the one behind the last comma if that is near,
    the other before the word that does not fit.

    Args:
        prompt: In `reading.syntax`, not "plain".
        tokenizer: Of the encoder.
        chunk_length: Tokens of a chunk, without start and end.
        reading: With the embeddings.
        encoder: Which of the model's text encoders it is, for the embeddings' vectors.

    Raises:
        ValueError: An embedding of more vectors than a chunk holds.
    """
    chunks: list[Chunk] = []
    parts = parse_prompt(prompt, reading.syntax).parts
    for number, part in enumerate(parts):
        words = list(_words(part, tokenizer, reading, encoder))
        if number and number == len(parts) - 1 and not words:
            continue  # a BREAK at the end begins nothing
        for tokens, _ in words:
            if not isinstance(tokens[0], int) and len(tokens) > chunk_length:
                raise ValueError(
                    f"embeddings has one of {len(tokens)} vectors, but this text encoder reads "
                    f"{chunk_length} tokens at once; use one with fewer vectors"
                )
        if reading.syntax == "a1111":
            chunks += _filled_to_the_comma(words, chunk_length, _comma(tokenizer))
        else:
            chunks += _filled_by_words(words, chunk_length)
    return chunks


Words: TypeAlias = Sequence[tuple[Sequence[Token], float]]


def _words(
    part: Sequence[Segment], tokenizer: Tokenizer, reading: PromptReading, encoder: int
) -> Iterator[tuple[Sequence[Token], float]]:
    """Tokens that stay together, with their weight: single ones for A1111, words for ComfyUI, embeddings."""
    for segment in part:
        for piece, is_embedding in split_at_embeddings(segment.text, reading.embeddings, reading.syntax):
            if is_embedding:
                yield tuple(reading.embeddings[piece][encoder]), segment.weight
                continue
            texts = [piece] if reading.syntax == "a1111" else piece.split()
            for text in texts:
                ids = tokenizer(text, add_special_tokens=False, max_length=2**30, truncation=True).input_ids
                if reading.syntax == "a1111":
                    yield from (((token,), segment.weight) for token in ids)
                elif ids:
                    yield tuple(ids), segment.weight


def _comma(tokenizer: Tokenizer) -> int | None:
    number = tokenizer.get_vocab().get(",</w>")
    return None if number is None else int(number)


def _filled_to_the_comma(words: Words, chunk_length: int, comma: int | None) -> list[Chunk]:
    """Fill chunks as A1111 does (modules/sd_hijack_clip.py); one that is full is cut at a near comma."""
    reach = int(COMMA_REACH * chunk_length)
    chunks: list[Chunk] = []
    last_comma: int | None = None
    tokens: list[Token] = []
    weights: list[float] = []
    for word, weight in words:
        is_comma = isinstance(word[0], int) and word[0] == comma
        if not is_comma and last_comma is not None and len(tokens) == chunk_length:
            cut = last_comma + 1
            if chunk_length - last_comma <= reach:
                chunks.append(Chunk(tuple(tokens[:cut]), tuple(weights[:cut])))
                tokens, weights, last_comma = tokens[cut:], weights[cut:], None
        if len(tokens) + len(word) > chunk_length:
            chunks.append(Chunk(tuple(tokens), tuple(weights)))
            tokens, weights, last_comma = [], [], None
        elif is_comma:
            last_comma = len(tokens)
        tokens += word
        weights += [weight] * len(word)
    return [*chunks, Chunk(tuple(tokens), tuple(weights))]


def _filled_by_words(words: Words, chunk_length: int) -> list[Chunk]:
    """Fill chunks as ComfyUI does (comfy/sd1_clip.py): a word that does not fit goes to the next chunk."""
    chunks: list[Chunk] = []
    tokens: list[Token] = []
    weights: list[float] = []
    for word, weight in words:
        rest = list(word)
        while len(tokens) + len(rest) > chunk_length:
            fits = chunk_length - len(tokens) if len(word) >= LARGE_WORD else 0
            chunks.append(Chunk((*tokens, *rest[:fits]), (*weights, *[weight] * fits)))
            tokens, weights, rest = [], [], rest[fits:]
        tokens += rest
        weights += [weight] * len(rest)
    return [*chunks, Chunk(tuple(tokens), tuple(weights))]


# Chunks to embeddings.


def encode_chunks(
    prompts: Sequence[Sequence[Chunk]],
    num_chunks: int,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    reading: PromptReading,
    is_xl: bool = False,
) -> Float[Tensor, "b n d"]:
    """Encode chunks, weigh their tokens and join them.

    Args:
        prompts: The chunks of each; those that have fewer are filled up with empty ones.
        num_chunks: Of each prompt in the result.
        tokenizer: Made for the encoder.
        text_encoder: Its dtype and device are those of the result.
        reading: See `PromptReading`.
        is_xl: Whether the second last layer is read, without the last norm, as SDXL was trained.
    """
    rows = [chunk for chunks in prompts for chunk in (*chunks, *[Chunk()] * (num_chunks - len(chunks)))]
    weighted = [any(weight != 1 for weight in chunk.weights) for chunk in rows]
    needs_empty = reading.syntax == "comfy" and any(weighted)
    outputs = run_encoder(
        [*rows, *[Chunk()] * needs_empty], tokenizer, text_encoder, is_xl or (reading.clip_skip or 1) > 1
    )
    embeds = _layer(outputs, text_encoder, reading.clip_skip, is_xl)
    empty = embeds[-1]
    found = []
    for chunk, z, is_weighted in zip(rows, embeds, weighted, strict=False):
        if not is_weighted:
            found.append(z)
            continue
        weights = torch.ones(len(z), dtype=z.dtype)
        weights[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights, dtype=z.dtype)
        w = weights.to(z.device)[:, None]
        if reading.syntax == "comfy":
            found.append(torch.where(w == 1, z, (z - empty) * w + empty))
        else:
            found.append(w * z * (z.mean() / (w * z).mean()))
    return rearrange(torch.stack(found), "(b chunks) n d -> b (chunks n) d", b=len(prompts))


def _layer(outputs: Any, text_encoder: TextEncoder, clip_skip: int | None, is_xl: bool) -> Tensor:
    """The layer that a U-Net reads."""
    skip = max(clip_skip or 1, 2) if is_xl else clip_skip or 1
    num_layers = text_encoder.config.num_hidden_layers
    if skip > num_layers:
        raise ValueError(
            f"clip_skip is {skip}, but this text encoder has {num_layers} layers; set it to 1 or 2"
        )
    if is_xl:
        return outputs.hidden_states[-skip]
    if skip == 1:
        return outputs.last_hidden_state
    inner = getattr(text_encoder, "text_model", text_encoder)
    with torch.no_grad():
        return inner.final_layer_norm(outputs.hidden_states[-skip])


def run_encoder(
    chunks: Sequence[Chunk], tokenizer: Tokenizer, text_encoder: TextEncoder, with_hidden_states: bool
) -> CLIPTextModelOutput | BaseModelOutputWithPooling:
    """Run a text encoder over chunks, each with its own start and end, padded to the full length."""
    length = num_tokens_of(tokenizer, text_encoder)
    ids = torch.full((len(chunks), length), int(tokenizer.pad_token_id))
    mask = torch.zeros((len(chunks), length), dtype=torch.long)
    vectors: dict[tuple[int, int], Tensor] = {}
    for row, chunk in enumerate(chunks):
        end = len(chunk.tokens) + 1
        ids[row, 0], ids[row, end] = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        mask[row, : end + 1] = 1
        for place, token in enumerate(chunk.tokens, start=1):
            if isinstance(token, int):
                ids[row, place] = token
            else:
                ids[row, place] = 0  # whatever row this is, the vector takes its place
                vectors[row, place] = token
    reads_mask = getattr(text_encoder.config, "use_attention_mask", False)
    with torch.no_grad(), _in_place_of_tokens(text_encoder, vectors):
        return text_encoder(
            ids.to(text_encoder.device),
            attention_mask=mask.to(text_encoder.device) if reads_mask else None,
            output_hidden_states=with_hidden_states,
        )


@contextmanager
def _in_place_of_tokens(
    text_encoder: TextEncoder, vectors: Mapping[tuple[int, int], Tensor]
) -> Iterator[None]:
    """Put vectors in the place of tokens' own, by row and position, for the length of a `with` block."""
    if not vectors:
        yield
        return

    def put(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        for (row, place), vector in vectors.items():
            changed[row, place] = vector.to(changed)
        return changed

    handle = text_encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def plain_chunks(
    prompts: Sequence[str], tokenizer: Tokenizer, length: int, name: str = "prompt"
) -> list[Chunk]:
    """One chunk of each prompt; one that is too long is cut, with a warning that quotes what is lost.

    Args:
        prompts: Letters alone.
        tokenizer: Of the encoder.
        length: Tokens of a chunk, without start and end.
        name: Which text it is, for the warning.
    """
    chunks: list[Chunk] = []
    for prompt in prompts:
        # A length that no prompt reaches: without one, transformers prints a warning of its own.
        whole = tokenizer(prompt, add_special_tokens=False, max_length=2**30, truncation=True).input_ids
        if len(whole) > length and prompt not in prompts[: len(chunks)]:
            lost = tokenizer.decode(whole[length:]).strip()
            warnings.warn(
                f"{name} has {len(whole)} tokens but this text encoder reads {length}; "
                f"dropped its end: {shown(lost)}; shorten it, or set prompt_syntax to a1111",
                stacklevel=4,
            )
        kept = tuple(whole[:length])
        chunks.append(Chunk(kept, (1.0,) * len(kept)))
    return chunks
