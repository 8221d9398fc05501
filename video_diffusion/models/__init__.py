"""The temporal layers, where they sit in an image U-Net, and frames to latents and back."""

from video_diffusion.models.control import (
    ControlledUNet,
    ControlWithin,
    FrameControl,
    PictureControl,
    SparseControl,
)
from video_diffusion.models.latents import (
    computing_device,
    decode_latents,
    decodes_in_time,
    encode_frames,
    latent_scale,
    usual_chunk_size,
)
from video_diffusion.models.motion_adapter import MotionAdapter, temporal_blocks, temporal_places
from video_diffusion.models.temporal import NormScope
from video_diffusion.models.video_unet import VideoUNet, check_blocks

__all__ = [
    "ControlWithin",
    "ControlledUNet",
    "FrameControl",
    "MotionAdapter",
    "NormScope",
    "PictureControl",
    "SparseControl",
    "VideoUNet",
    "check_blocks",
    "computing_device",
    "decode_latents",
    "decodes_in_time",
    "encode_frames",
    "latent_scale",
    "temporal_blocks",
    "temporal_places",
    "usual_chunk_size",
]
