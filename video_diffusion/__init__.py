"""Text to video: an image diffusion U-Net extended with temporal attention, measured before it is encoded.

`from video_diffusion import TextToVideoPipeline` is the usual way in; nothing heavy is imported earlier.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from video_diffusion.pipeline import GeneratedVideo, TextToVideoPipeline
    from video_diffusion.settings import GenerationSettings

__all__ = ["GeneratedVideo", "GenerationSettings", "TextToVideoPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "GenerationSettings":
        from video_diffusion.settings import GenerationSettings

        return GenerationSettings
    if name in {"GeneratedVideo", "TextToVideoPipeline"}:
        from video_diffusion import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'video_diffusion' has no attribute {name!r}")
