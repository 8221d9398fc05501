"""Conditions of a video made fit for a batch in which every frame is an item."""

from typing import Any

from torch import Tensor

from video_diffusion.shapes import fold_frames


def folded_residual(residual: Tensor) -> Tensor:
    """Fold the frames of a ControlNet's residual, if they are not yet."""
    return fold_frames(residual) if residual.ndim == 5 else residual


def per_frame_condition(name: str, condition: Any, num_videos: int, num_frames: int) -> Any:
    """Repeat each video's condition for its frames; lists (one entry per IP-Adapter) go entry by entry."""
    if isinstance(condition, list | tuple):
        return [per_frame_condition(name, entry, num_videos, num_frames) for entry in condition]
    if not isinstance(condition, Tensor) or len(condition) == num_videos * num_frames:
        return condition
    if len(condition) != num_videos:
        raise ValueError(
            f"{name} must have one item per video ({num_videos}) or per frame ({num_videos * num_frames}), "
            f"but has {len(condition)}"
        )
    return condition.repeat_interleave(num_frames, dim=0)
