"""Prompt to measured clip; `text_to_video` reads in the order in which it happens."""

from video_diffusion.pipeline.text_to_video import TextToVideoPipeline
from video_diffusion.pipeline.video import DecodedVideo, GeneratedVideo

__all__ = ["DecodedVideo", "GeneratedVideo", "TextToVideoPipeline"]
