"""What makes it fast without touching `models/`: faster ways through its modules, which come off again."""

from video_diffusion.acceleration.accelerate import Acceleration, accelerate_unet, compiler_problem
from video_diffusion.acceleration.feature_reuse import (
    FIRST_SHARE,
    FULL_STEP_EVERY,
    FeatureReuse,
    ReusingGuided,
)

__all__ = [
    "FIRST_SHARE",
    "FULL_STEP_EVERY",
    "Acceleration",
    "FeatureReuse",
    "ReusingGuided",
    "accelerate_unet",
    "compiler_problem",
]
