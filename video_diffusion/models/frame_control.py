"""ControlNets along a clip: what single frames shall look like, as residuals that an image U-Net adds.

A control is a callable; what says when or how strongly it works wraps one. diffusers' networks do the
computing; here is only how they run along frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from video_diffusion.shapes import Latents, PromptEmbeds, fold_frames, to_float

Residuals: TypeAlias = tuple[Sequence[Tensor], Tensor]
"""For every skip connection of a U-Net, and for its mid block; frames folded into the batch."""

Timestep: TypeAlias = Shaped[Tensor, ""]


@runtime_checkable
class FrameControl(Protocol):
    """Tells a U-Net what frames shall look like."""

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        frame_numbers: Int[Tensor, " f"],
    ) -> Residuals | None:
        """Say what to add in one pass over some frames of a clip; None is nothing.

        Args:
            latents: Of these frames, noisy; all videos get the same control.
            timestep: One for all videos.
            prompt_embeds: Of each video, or of each of these frames.
            frame_numbers: Which frames of the clip they are, counted from 0.
        """
        ...


class PictureControl:
    """A ControlNet (Zhang et al. 2023) with a picture for each frame, run as on pictures of their own.

    Args:
        network: diffusers' `ControlNetModel`.
        pictures: One for each frame of the clip, as the network reads them: edges, depth, poses.
        scale: Factor on what it adds.
    """

    def __init__(self, network: Any, pictures: UInt8[np.ndarray, "f h w 3"], scale: float) -> None:
        self.network = network
        self.pictures = pictures
        self.scale = scale

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        frame_numbers: Int[Tensor, " f"],
    ) -> Residuals:
        """Say what to add; see `FrameControl`."""
        pictures = to_float(self.pictures[frame_numbers.tolist()]).to(latents)
        return self.network(
            fold_frames(latents[:, : self.network.config.in_channels]),
            timestep,
            _of_each_frame(prompt_embeds, latents.shape[2]),
            repeat(pictures, "f c h w -> (b f) c h w", b=len(latents)),
            conditioning_scale=self.scale,
            return_dict=False,
        )


class SparseControl:
    """A SparseCtrl encoder (Guo et al. 2023) with pictures for some frames; it fills in what lies between.

    It never sees the noisy latents. Where none of the frames has a picture it adds nothing: it was not
    trained without one.

    Args:
        network: diffusers' `SparseControlNetModel`.
        pictures: Frame number to what the network reads: latents, or pixels in [0, 1] of a scribble.
        scale: Factor on what it adds.
    """

    def __init__(
        self, network: Any, pictures: Mapping[int, Float[Tensor, "c rows columns"]], scale: float
    ) -> None:
        self.network = network
        self.pictures = pictures
        self.scale = scale

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        frame_numbers: Int[Tensor, " f"],
    ) -> Residuals | None:
        """Say what to add; see `FrameControl`."""
        seen = [place for place, frame in enumerate(frame_numbers.tolist()) if frame in self.pictures]
        if not seen:
            return None
        pictures = torch.stack([self.pictures[int(frame_numbers[place])] for place in seen], dim=1)
        channels, _, rows, columns = pictures.shape
        num_frames = latents.shape[2]
        condition = latents.new_zeros(1, channels, num_frames, rows, columns)
        condition[0, :, seen] = pictures.to(latents)
        mask = latents.new_zeros(1, 1, num_frames, rows, columns)
        mask[:, :, seen] = 1
        return self.network(
            latents[:, : self.network.config.in_channels],
            timestep,
            _of_each_frame(prompt_embeds, num_frames),
            condition,
            conditioning_mask=mask,
            conditioning_scale=self.scale,
            return_dict=False,
        )


class ControlWithin:
    """A control that works between two timesteps only, both included.

    Args:
        control: Asked there.
        lowest: Timestep.
        highest: Timestep.
    """

    def __init__(self, control: FrameControl, lowest: float, highest: float) -> None:
        self.control = control
        self.lowest = lowest
        self.highest = highest

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        frame_numbers: Int[Tensor, " f"],
    ) -> Residuals | None:
        """Say what to add; see `FrameControl`."""
        if not self.lowest <= float(timestep) <= self.highest:
            return None
        return self.control(latents, timestep, prompt_embeds, frame_numbers)


def _of_each_frame(prompt_embeds: PromptEmbeds, num_frames: int) -> Float[Tensor, "bf n d"]:
    if prompt_embeds.ndim == 4:
        return rearrange(prompt_embeds, "b f n d -> (b f) n d")
    return repeat(prompt_embeds, "b n d -> (b f) n d", f=num_frames)
