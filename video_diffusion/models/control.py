"""ControlNets along a clip: what single frames shall look like, as residuals that an image U-Net adds.

A control is a callable; what says when or how strongly it works wraps one. diffusers' networks do the
computing; here is only how they run along frames.
"""

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange, repeat
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from video_diffusion.models.base_changes import one_by_one
from video_diffusion.models.video_unet import VideoUNet
from video_diffusion.shapes import Latents, PromptEmbeds, fold_frames, to_float, unfold_frames


def normalise_each_frame(network: nn.Module) -> None:
    """Make the first norm of diffusers' temporal layers average over each frame, not over the clip."""
    for module in network.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            vars(module.norm)["forward"] = MethodType(_normalise_each_frame, module.norm)


def _normalise_each_frame(
    norm: nn.GroupNorm, hidden_states: Float[Tensor, "b c f h w"]
) -> Float[Tensor, "b c f h w"]:
    normalised = nn.GroupNorm.forward(norm, fold_frames(hidden_states))
    return unfold_frames(normalised, hidden_states.shape[2])


# ControlNets along a clip: what single frames shall look like, as residuals that an image U-Net adds.
#
# A control is a callable; what says when or how strongly it works wraps one. diffusers' networks do the
# computing; here is only how they run along frames.


Residuals: TypeAlias = tuple[Sequence[Tensor], Tensor]
"""For every skip connection of a U-Net, and for its mid block; frames folded into the batch."""

AddedConditions: TypeAlias = Mapping[str, Any]
"""What SDXL's networks read besides the prompt's tokens: one item for each video."""

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
        added: AddedConditions | None = None,
    ) -> Residuals | None:
        """Say what to add in one pass over some frames of a clip; None is nothing.

        `added` is for networks that read it, as SDXL's do.
        """
        ...


class PictureControl:
    """A ControlNet (Zhang et al. 2023) with an image for each frame, run as on images of their own.

    Args:
        network: Asked for its residuals.
        images: One for each frame of the clip, as the network reads them: edges, depth, poses.
        scale: Factor on what it adds.
    """

    def __init__(self, network: ControlNetModel, images: UInt8[np.ndarray, "f h w 3"], scale: float) -> None:
        self.network = network
        self.images = images
        self.scale = scale

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        frame_numbers: Int[Tensor, " f"],
        added: AddedConditions | None = None,
    ) -> Residuals:
        """Say what to add; see `FrameControl`."""
        images = to_float(self.images[frame_numbers.tolist()]).to(latents)
        return self.network(
            fold_frames(latents[:, : self.network.config.in_channels]),
            timestep,
            _of_each_frame(prompt_embeds, latents.shape[2]),
            repeat(images, "f c h w -> (b f) c h w", b=len(latents)),
            conditioning_scale=self.scale,
            added_cond_kwargs=self._added(added, latents.shape[2]),
            return_dict=False,
        )

    def _added(self, added: AddedConditions | None, num_frames: int) -> dict[str, Tensor] | None:
        if added is None or self.network.config.addition_embed_type != "text_time":
            return None
        return {name: repeat(added[name], "b d -> (b f) d", f=num_frames) for name in XL_CONDITIONS}


XL_CONDITIONS = ("text_embeds", "time_ids")


class SparseControl:
    """A SparseCtrl encoder (Guo et al. 2023) with images for some frames; it fills in what lies between.

    It never sees the noisy latents. Where none of the frames has an image it adds nothing: it was not
    trained without one.

    Args:
        network: Asked for its residuals.
        images: Frame number to what the network reads: latents, or pixels in [0, 1] of a scribble.
        scale: Factor on what it adds.
    """

    def __init__(
        self,
        network: SparseControlNetModel,
        images: Mapping[int, Float[Tensor, "c rows columns"]],
        scale: float,
    ) -> None:
        self.network = network
        self.images = images
        self.scale = scale

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        frame_numbers: Int[Tensor, " f"],
        added: AddedConditions | None = None,
    ) -> Residuals | None:
        """Say what to add; see `FrameControl`."""
        seen = [place for place, frame in enumerate(frame_numbers.tolist()) if frame in self.images]
        if not seen:
            return None
        images = torch.stack([self.images[int(frame_numbers[place])] for place in seen], dim=1)
        channels, _, rows, columns = images.shape
        num_frames = latents.shape[2]
        condition = latents.new_zeros(1, channels, num_frames, rows, columns)
        condition[0, :, seen] = images.to(latents)
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
        added: AddedConditions | None = None,
    ) -> Residuals | None:
        """Say what to add; see `FrameControl`."""
        if not self.lowest <= float(timestep) <= self.highest:
            return None
        return self.control(latents, timestep, prompt_embeds, frame_numbers, added)


def _of_each_frame(prompt_embeds: PromptEmbeds, num_frames: int) -> Float[Tensor, "bf n d"]:
    if prompt_embeds.ndim == 4:
        return rearrange(prompt_embeds, "b f n d -> (b f) n d")
    return repeat(prompt_embeds, "b n d -> (b f) n d", f=num_frames)


# A video U-Net that is told what frames shall look like: the innermost model where clips are steered.


class ControlledUNet:
    """A `VideoUNet` that adds what controls say; several add up.

    Args:
        video_unet: The model; where it runs videos one by one, so do the controls.
        controls: Asked before every pass.
    """

    def __init__(self, video_unet: VideoUNet, controls: Sequence[FrameControl]) -> None:
        self.video_unet = video_unet
        self.controls = controls

    def __call__(
        self,
        latents: Latents,
        timestep: Timestep,
        prompt_embeds: PromptEmbeds,
        *,
        frame_numbers: Int[Tensor, " f"],
        **conditions: object,
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict for some frames of a clip."""
        if self.video_unet.one_by_one and len(latents) > 1:
            own = {"timestep": timestep, "prompt_embeds": prompt_embeds, "frame_numbers": frame_numbers}
            return one_by_one(self, latents, conditions | own)
        added: Any = conditions.get("added_cond_kwargs")
        asked = (control(latents, timestep, prompt_embeds, frame_numbers, added) for control in self.controls)
        found = [residuals for residuals in asked if residuals is not None]
        if found:
            downs, mids = zip(*found, strict=True)
            conditions |= {
                "down_block_additional_residuals": [sum(level) for level in zip(*downs, strict=True)],
                "mid_block_additional_residual": sum(mids),
            }
        return self.video_unet(latents, timestep, prompt_embeds, **conditions)
