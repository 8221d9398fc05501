"""Prompts to embeddings."""

from video_diffusion.text.encode import XlTextEncoders, encode_prompt, size_conditions, unknown_words
from video_diffusion.text.travel import PromptKeyframes, encode_travel_by, slerp, travel

__all__ = [
    "PromptKeyframes",
    "XlTextEncoders",
    "encode_prompt",
    "encode_travel_by",
    "size_conditions",
    "slerp",
    "travel",
    "unknown_words",
]
