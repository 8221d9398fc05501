"""Axes, tensor names, folding frames into the batch, and the two value ranges of an image.

Axis letters, everywhere in this project: **b** videos, **f** frames, **c** channels, **h w** height and
width, **n** prompt tokens, **d** embedding width, **k** attention heads. While a clip is being made its
tensors are `b c f h w`; a finished video is `f c h w` in [0, 1]; files hold `f h w c` uint8.
"""

from typing import TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Latents: TypeAlias = Float[Tensor, "b c f h w"]
"""Latents of a batch of videos."""

FoldedLatents: TypeAlias = Float[Tensor, "bf c h w"]
"""The same with every frame an item of the batch, video after video: what an image model takes."""

PromptEmbeds: TypeAlias = Float[Tensor, "b n d"] | Float[Tensor, "b f n d"]
"""Text embeddings: one sequence of tokens for a whole video, or one for each of its frames."""

FramePositions: TypeAlias = Int[Tensor, " f"] | Float[Tensor, " f"]
"""For each frame, the row of the sinusoidal table that says when it happens; fractions lie between rows."""

FrameWindow: TypeAlias = tuple[tuple[int, ...], tuple[float, ...]]
"""Some frames of a clip in the order in which they are seen together, and how much each counts there."""

FrameNumbers: TypeAlias = float | Float[Tensor, " f"]
"""One number for a whole video, or one for each of its frames."""

FloatFrames: TypeAlias = Float[Tensor, "f c h w"]
"""A finished video, values in [0, 1]."""

Uint8Frames: TypeAlias = UInt8[np.ndarray, "f h w c"]
"""A finished video as it goes to metrics and encoders, values 0…255."""


def fold_frames(video: Float[Tensor, "b c f h w"]) -> Float[Tensor, "bf c h w"]:
    """Make every frame an item of the batch, all frames of the first video first."""
    return rearrange(video, "b c f h w -> (b f) c h w")


def unfold_frames(frames: Float[Tensor, "bf c h w"], num_frames: int) -> Float[Tensor, "b c f h w"]:
    """Undo `fold_frames`."""
    return rearrange(frames, "(b f) c h w -> b c f h w", f=num_frames)


def to_uint8(frames: Float[Tensor, "f c h w"]) -> UInt8[np.ndarray, "f h w c"]:
    """Round a finished video to the 256 levels of a file; nearest, where diffusers' exporter truncates."""
    if not bool(torch.isfinite(frames).all()):
        raise ValueError(
            "frames must be finite, but some values are NaN or infinite; decode in float32 or bfloat16"
        )
    levels = frames.detach().to("cpu", torch.float32).mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return rearrange(levels, "f c h w -> f h w c").contiguous().numpy()


def to_float(frames: UInt8[np.ndarray, "f h w c"]) -> Float[Tensor, "f c h w"]:
    """Read 256 levels as float32 in [0, 1]; `to_uint8` gives the same levels back."""
    return rearrange(torch.from_numpy(frames.copy()), "f h w c -> f c h w").to(torch.float32) / 255
