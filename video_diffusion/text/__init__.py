"""Prompts to embeddings."""

from video_diffusion.text.encode import (
    TextEncoders,
    encode_prompt,
    size_conditions,
    unknown_words,
    unknown_words_note,
)
from video_diffusion.text.prompts import PLAIN, Chunk, PromptReading, split_chunks
from video_diffusion.text.travel import PromptKeyframes, encode_travel_by, slerp, travel

__all__ = [
    "PLAIN",
    "Chunk",
    "PromptKeyframes",
    "PromptReading",
    "TextEncoders",
    "encode_prompt",
    "encode_travel_by",
    "size_conditions",
    "slerp",
    "split_chunks",
    "travel",
    "unknown_words",
    "unknown_words_note",
]
