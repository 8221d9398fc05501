"""The videos of a batch one after the other, guidance's two passes too: less memory, a little more time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PER_VIDEO = {
    "timestep", "prompt_embeds", "added_cond_kwargs", "down_block_additional_residuals",
    "mid_block_additional_residual", "timestep_cond", "class_labels",
}  # fmt: skip
"""Arguments of a `VideoUNet` that may hold one item for each video, or one for each of its frames."""


def one_by_one(model: Any, latents: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Ask a `VideoUNet` for each video of a batch alone.

    Args:
        model: Is called with one video and its own conditions at a time.
        latents: Of all videos.
        arguments: All others by name; see `PER_VIDEO` for those that are divided.
    """
    num_videos, _, num_frames, _, _ = latents.shape
    predictions = []
    for video in range(num_videos):
        own = {
            name: _of_video(value, video, num_videos, num_frames) if name in PER_VIDEO else value
            for name, value in arguments.items()
        }
        predictions.append(model(latents[video : video + 1], **own))
    return torch.cat(predictions)


def _of_video(value: Any, video: int, num_videos: int, num_frames: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _of_video(entry, video, num_videos, num_frames) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_of_video(entry, video, num_videos, num_frames) for entry in value]
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if len(value) == num_videos:
        return value[video : video + 1]
    if len(value) == num_videos * num_frames:
        return value[video * num_frames : (video + 1) * num_frames]
    return value
