"""Prompts to embeddings."""

from video_diffusion.text.encode_prompt import encode_prompt
from video_diffusion.text.vocabulary import unknown_words

__all__ = ["encode_prompt", "unknown_words"]
