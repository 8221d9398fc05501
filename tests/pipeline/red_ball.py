"""Settings of the clip that all tests of the pipeline make."""

from typing import Any

from video_diffusion import GenerationSettings


def clip(**changes: Any) -> GenerationSettings:
    return GenerationSettings.from_values({"prompt": "a red ball", **changes})
