"""Prompts to embeddings."""

from video_diffusion.text.encode_prompt import encode_prompt
from video_diffusion.text.encode_prompt_xl import XlTextEncoders, size_conditions
from video_diffusion.text.prompt_travel import PromptKeyframes, encode_travel, encode_travel_by, slerp, travel
from video_diffusion.text.vocabulary import unknown_words

__all__ = [
    "PromptKeyframes",
    "XlTextEncoders",
    "encode_prompt",
    "encode_travel",
    "encode_travel_by",
    "size_conditions",
    "slerp",
    "travel",
    "unknown_words",
]
