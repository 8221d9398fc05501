"""Frames to latents and back, and where a network computes."""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from video_diffusion.shapes import FloatFrames, Latents, fold_frames

VAE: TypeAlias = AutoencoderKL | AutoencoderTiny
"""An autoencoder that makes latents of an image and an image of latents."""


def computing_device(network: ModelMixin | PreTrainedModel) -> torch.device:
    """Tell where a network computes, also while it waits elsewhere by accelerate's hooks."""
    hook = getattr(network, "_hf_hook", None)
    return network.device if hook is None else hook.execution_device


# Frames to latents and back, a few at a time: one by one is slow, all at once takes the memory.


def decode_latents(vae: VAE, latents: Latents, chunk_size: int) -> Iterator[Float[Tensor, "chunk c h w"]]:
    """Decode videos to frames in [0, 1], float32, yielding `chunk_size` frames at a time, video after video.

    Args:
        vae: Frames are decoded in its dtype, each on its own.
        latents: As the U-Net sees them: scaled and shifted by the VAE's `scaling_factor` and `shift_factor`.
        chunk_size: Frames decoded at once; the last chunk may be shorter. It does not change the frames.
    """
    for chunk in torch.split(fold_frames(latents), chunk_size):
        unscaled = chunk / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        with torch.no_grad():
            frames = vae.decode(unscaled.to(vae.dtype)).sample
        yield (frames.float() / 2 + 0.5).clamp(0, 1)


def usual_chunk_size(height: int, width: int, bytes_per_number: int) -> int:
    """Choose how many frames to decode at once: 4, or as few of large frames as one step takes memory for.

    Of Stable Diffusion's decoder and 512x512 pixels in 16 bits, two frames take 0.8 GB and four 1.6 GB, more
    than any step of the U-Net. Fewer at once are no slower.

    Args:
        height: Of the frames, pixels.
        width: Likewise.
        bytes_per_number: Of the autoencoder's precision.
    """
    return min(max(2**20 // (height * width * bytes_per_number), 1), 4)


def encode_frames(vae: VAE, frames: FloatFrames, chunk_size: int) -> Float[Tensor, "c_z f h_z w_z"]:
    """Encode a video's frames to the latents that the U-Net sees: the mode of what the VAE gives, no sample.

    Args:
        vae: Frames are encoded in its dtype, each on its own.
        frames: Values in [0, 1].
        chunk_size: Frames encoded at once. It does not change the latents.
    """
    latents = []
    for chunk in torch.split(frames, chunk_size):
        with torch.no_grad():
            encoded = vae.encode((chunk * 2 - 1).to(computing_device(vae), vae.dtype))
        latents.append(encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode())
    shifted = torch.cat(latents) - (vae.config.get("shift_factor") or 0)
    return (shifted * vae.config.scaling_factor).transpose(0, 1)


def latent_scale(vae: VAE) -> int:
    """Tell how many pixels one latent stands for, along each side."""
    levels = vae.config.get("block_out_channels") or vae.config.encoder_block_out_channels
    return 2 ** (len(levels) - 1)
