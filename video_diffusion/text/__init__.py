"""Prompts to embeddings."""

from video_diffusion.text.encode_prompt import encode_prompt
from video_diffusion.text.prompt_travel import PromptKeyframes, encode_travel, slerp, travel
from video_diffusion.text.vocabulary import unknown_words

__all__ = ["PromptKeyframes", "encode_prompt", "encode_travel", "slerp", "travel", "unknown_words"]
