"""What makes it fast without touching `models/`: faster ways through its modules, which come off again."""

from video_diffusion.acceleration.accelerate import Acceleration, accelerate_unet

__all__ = ["Acceleration", "accelerate_unet"]
