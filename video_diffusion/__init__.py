"""Text to video: an image diffusion U-Net extended with temporal attention, measured before it is encoded.

`from video_diffusion import TextToVideoPipeline` is the usual way in; nothing heavy is imported earlier.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

TORCH_CAME_FIRST = "torch" in sys.modules and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"
"""Whether torch's threads spin while they wait: it was loaded before this package could say otherwise."""

# 13.6 s of processor time for a clip instead of 2.7 where two other programs are busy on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
