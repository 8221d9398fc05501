"""Frames to latents and back, and where a network computes."""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from video_diffusion.shapes import FloatFrames, Latents, fold_frames

VAE: TypeAlias = AutoencoderKL | AutoencoderTiny | AutoencoderKLTemporalDecoder
"""An autoencoder that makes latents of an image and an image of latents.

The temporal one, of Stable Video Diffusion (Blattmann et al. 2023), sees neighbouring frames as it decodes.
"""


def computing_device(network: ModelMixin | PreTrainedModel) -> torch.device:
    """Tell where a network computes, also while it waits elsewhere by accelerate's hooks."""
    hook = getattr(network, "_hf_hook", None)
    return network.device if hook is None else hook.execution_device


# Frames to latents and back, a few at a time: one by one is slow, all at once takes the memory.


def decode_latents(vae: VAE, latents: Latents, chunk_size: int) -> Iterator[Float[Tensor, "chunk c h w"]]:
    """Decode videos to frames in [0, 1], float32, yielding `chunk_size` frames at a time, video after video.

    Args:
        vae: Frames are decoded in its dtype, each on its own; a temporal decoder's in chunks that
            overlap and fade into one another.
        latents: As the U-Net sees them: scaled and shifted by the VAE's `scaling_factor` and `shift_factor`.
        chunk_size: Frames decoded at once; the last chunk may be shorter. It does not change the frames of a
            VAE that decodes each on its own.
    """
    if isinstance(vae, AutoencoderKLTemporalDecoder):
        for video in torch.split(latents, 1):
            yield from _decode_in_time(vae, fold_frames(video), max(chunk_size, LEAST_IN_TIME))
        return
    for chunk in torch.split(fold_frames(latents), chunk_size):
        yield _to_pixels(_decode(vae, chunk))


def _decode_in_time(
    vae: AutoencoderKLTemporalDecoder, latents: Float[Tensor, "f c h w"], chunk_size: int
) -> Iterator[Float[Tensor, "chunk c h w"]]:
    """Decode one video in chunks of equal length that overlap by five eighths, yielding what is final.

    A chunk's first and last frames lack sight of their neighbours and do not count; between, it fades in.
    Norms average over a chunk, so that chunks differ a little everywhere: with less overlap joints show.
    """
    num_frames, before = len(latents), None
    starts = [0]
    if num_frames > chunk_size:
        last = num_frames - chunk_size
        gaps = -(-last // (chunk_size - 5 * chunk_size // 8))
        starts = [last * gap // gaps for gap in range(gaps + 1)]
    for start, following in zip(starts, [*starts[1:], num_frames], strict=True):
        frames = _decode(vae, latents[start : start + chunk_size]).float()
        if before is not None:
            overlap = len(before)
            blind = overlap // 5
            place = torch.arange(overlap, device=frames.device) - blind + 0.5
            share = (place / (overlap - 2 * blind)).clamp(0, 1)
            smooth = (share * share * (3 - 2 * share))[:, None, None, None]
            frames[:overlap] = torch.lerp(before, frames[:overlap], smooth)
        yield _to_pixels(frames[: following - start])
        before = frames[following - start :]


def _decode(vae: VAE, latents: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c_out h_out w_out"]:
    unscaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
    in_time = {"num_frames": len(latents)} if isinstance(vae, AutoencoderKLTemporalDecoder) else {}
    with torch.no_grad():
        return vae.decode(unscaled.to(vae.dtype), **in_time).sample


def _to_pixels(frames: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c h w"]:
    return (frames.float() / 2 + 0.5).clamp(0, 1)


def decodes_in_time(vae: VAE) -> bool:
    """Whether an autoencoder sees neighbouring frames as it decodes."""
    return isinstance(vae, AutoencoderKLTemporalDecoder)


LEAST_IN_TIME = 8  # frames at once, where a decoder sees neighbours
MOST_IN_TIME = 16


def usual_chunk_size(height: int, width: int, bytes_per_number: int, in_time: bool = False) -> int:
    """Choose how many frames to decode at once: 4, or as few of large frames as one step takes memory for.

    Of Stable Diffusion's decoder and 512x512 pixels in 16 bits, two frames take 0.8 GB and four 1.6 GB, more
    than any step of the U-Net. Fewer at once are no slower. A temporal decoder takes 16, or 8 where
    they are large: the more it sees, the less its chunks differ.

    Args:
        height: Of the frames, pixels.
        width: Likewise.
        bytes_per_number: Of the autoencoder's precision.
        in_time: Whether it is a temporal decoder.
    """
    fitting = max(2**20 // (height * width * bytes_per_number), 1)
    if in_time:
        return min(LEAST_IN_TIME * fitting, MOST_IN_TIME)
    return min(fitting, 4)


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
