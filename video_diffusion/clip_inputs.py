"""What clips are conditioned on, as their model reads it: prompts, sizes, a video or picture."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from video_diffusion.clip_plan import prompt_keyframes
from video_diffusion.generation_settings import place_images
from video_diffusion.io.input_frames import read_input_image, read_input_video
from video_diffusion.loading import ModelParts
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.models import encode_frames
from video_diffusion.shapes import Latents, PromptEmbeds, to_float
from video_diffusion.text import encode_travel_by

if TYPE_CHECKING:
    from video_diffusion.loading import LoadedIpAdapter


def encode_prompts(parts: ModelParts, batch: Sequence[Any], negative: bool = False) -> PromptEmbeds:
    """Encode the prompts of clips, or their negative prompts; per frame where one of them travels.

    Args:
        parts: The model.
        batch: Resolved settings that agree on everything but prompts and seeds.
        negative: Which ones.
    """
    one = batch[0]
    keyframes = [prompt_keyframes(each, negative) for each in batch]
    return encode_travel_by(parts.encode_prompts, keyframes, one.num_frames, one.prompt_blend, one.loop)


def added_conditions(
    parts: ModelParts, batch: Sequence[Any], guided: bool, ip_adapter: "LoadedIpAdapter | None" = None
) -> dict[str, Any]:
    """Make what a U-Net is told besides prompts: SDXL's summaries and sizes, an IP-Adapter's pictures.

    Of prompts that travel, the first one's summary stands for the clip.

    Args:
        parts: The model.
        batch: As in `encode_prompts`.
        guided: Whether to make it for guidance's doubled batch.
        ip_adapter: At work in the U-Net, if there is one.

    Returns:
        Arguments of the U-Net; none if it is told nothing else.

    Raises:
        VideoReadError: A picture cannot be read.
        ModelLoadError: The image encoder cannot be loaded.
    """
    prompts = [prompt_keyframes(each, negative=True)[0][1] for each in batch] if guided else []
    prompts += [prompt_keyframes(each)[0][1] for each in batch]
    one = batch[0]
    conditions: dict[str, Any] = parts.added_conditions(prompts, one.height, one.width) or {}
    if ip_adapter is not None:
        pictures = place_images("ip_image", one.ip_image, one.num_frames)
        conditions["image_embeds"] = ip_adapter.image_embeds(
            pictures, one.num_frames, len(batch), guided=guided, looped=one.loop
        )
    return {"added_cond_kwargs": conditions} if conditions else {}


def noise_moves(settings: Any, latent_scale: int) -> list[np.ndarray] | None:
    """Measure how the video that the noise follows moves: from each frame but the first to the one before.

    Args:
        settings: Resolved.
        latent_scale: Pixels of a latent, along each side.

    Returns:
        Dense flow in latents, `h w 2`, to the right and downwards (zero in pictures too small for flow); None
        if the noise follows no video.

    Raises:
        VideoReadError: It cannot be read.
        ValueError: It has fewer frames than the clip.
    """
    if settings.noise_video is None:
        return None
    size = (settings.height, settings.width)
    frames = read_input_video(settings.noise_video, settings.num_frames, *size, "noise_video")
    height, width = (side // latent_scale for side in size)
    flow, moves = DisFlow(), []
    for index, (first, second) in enumerate(pairwise(frames)):
        both = flow.between(index, first, second)
        back = np.zeros((*size, 2), np.float32) if both is None else both[1]
        moves.append(cv2.resize(back, (width, height), interpolation=cv2.INTER_AREA) / latent_scale)
    return moves


def encode_input(parts: ModelParts, settings: Any) -> Latents | None:
    """Encode the video or picture that clips start from; None if there is none.

    Raises:
        VideoReadError: It cannot be read.
        ValueError: It has fewer frames than the clip.
    """
    size = (settings.height, settings.width)
    if settings.init_video is not None:
        frames = read_input_video(settings.init_video, settings.num_frames, *size)
    elif settings.init_image is not None:
        frames = read_input_image(settings.init_image, *size)[None]
    else:
        return None
    latents = encode_frames(parts.vae, to_float(frames), settings.decode_chunk_size)
    return latents.expand(-1, settings.num_frames, -1, -1).unsqueeze(0)
