"""Pictures to what an IP-Adapter reads of them, by CLIP's image encoder."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from video_diffusion.generation_settings import content_sha256
from video_diffusion.io import iter_frames
from video_diffusion.loading.components import load_text_encoder
from video_diffusion.loading.ip_adapter_source import IpAdapterSource

ImageEmbeds: TypeAlias = Float[Tensor, "images n d"]
"""Of each picture one vector (n is 1), or one for each of its patches."""


def encode_images(
    source: IpAdapterSource, files: Sequence[str], dtype: torch.dtype, device: torch.device
) -> tuple[ImageEmbeds, Float[Tensor, "1 n d"]]:
    """Encode pictures as an IP-Adapter reads them.

    CLIP sees the square in the middle of a picture, at its own size. The encoder is in memory only while it
    computes, and what it said of the last pictures is remembered.

    Args:
        source: The adapter, with its encoder.
        files: Pictures; of a video the first frame.
        dtype: To compute in.
        device: To compute on.

    Returns:
        Embeddings of the pictures, and those that stand for no picture: zeros, or the patches of black.

    Raises:
        VideoReadError: A picture cannot be read.
        ModelLoadError: The encoder cannot be loaded.
    """
    by_patch = source.facts.kind != "image"
    known = (
        source.encoder,
        content_sha256(str(source.encoder)),
        tuple((f, content_sha256(f)) for f in files),
    )
    embeds, without = _encode(*known, dtype, device, by_patch)
    return embeds.to(device), without.to(device)


@lru_cache(maxsize=8)
def _encode(
    folder: Path,
    folder_sha256: str | None,
    files: tuple[tuple[str, str | None], ...],
    dtype: torch.dtype,
    device: torch.device,
    by_patch: bool,
) -> tuple[Tensor, Tensor]:
    """Encode what has these names and this content; see `encode_images`."""
    # Not the class that takes torchvision where it is installed: frames would depend on that.
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: PLC0415

    pictures = [next(iter(iter_frames(path))).pixels for path, _ in files]
    encoder = load_text_encoder(CLIPVisionModelWithProjection, folder, dtype).to(device)
    side = encoder.config.image_size
    processor = CLIPImageProcessorPil(size=side, crop_size=side)
    pixels = torch.cat([processor(picture, return_tensors="pt").pixel_values for picture in pictures])
    pixels = pixels.to(device, dtype)
    with torch.no_grad():
        if not by_patch:
            embeds = encoder(pixels).image_embeds[:, None]
            return embeds.cpu(), torch.zeros_like(embeds[:1]).cpu()
        both = torch.cat([pixels, torch.zeros_like(pixels[:1])])
        patches = encoder(both, output_hidden_states=True).hidden_states[-2].cpu()
    return patches[:-1], patches[-1:]
