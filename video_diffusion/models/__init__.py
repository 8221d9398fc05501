"""The temporal layers, where they sit in an image U-Net, and frames to latents and back."""

from video_diffusion.models.computing_device import computing_device
from video_diffusion.models.controlled_unet import ControlledUNet
from video_diffusion.models.frame_control import (
    ControlWithin,
    FrameControl,
    PictureControl,
    SparseControl,
)
from video_diffusion.models.frame_layout import check_blocks
from video_diffusion.models.latent_codec import decode_latents, encode_frames, latent_scale, usual_chunk_size
from video_diffusion.models.motion_adapter import MotionAdapter
from video_diffusion.models.temporal_places import temporal_blocks, temporal_places
from video_diffusion.models.temporal_transformer import NormScope
from video_diffusion.models.video_unet import VideoUNet

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
    "encode_frames",
    "latent_scale",
    "temporal_blocks",
    "temporal_places",
    "usual_chunk_size",
]
