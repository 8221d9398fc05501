"""A video U-Net that is told what frames shall look like: the innermost model where clips are steered."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from video_diffusion.models.frame_control import FrameControl, Timestep
from video_diffusion.models.one_by_one import one_by_one
from video_diffusion.models.video_unet import VideoUNet
from video_diffusion.shapes import Latents, PromptEmbeds


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
        **conditions: Any,
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict for some frames of a clip.

        Args:
            latents: Of these frames.
            timestep: One for all videos.
            prompt_embeds: Of each video, or of each of these frames.
            frame_numbers: Which frames of the clip they are: what controls are for.
            conditions: Further arguments of the video U-Net.
        """
        if self.video_unet.one_by_one and len(latents) > 1:
            own = {"timestep": timestep, "prompt_embeds": prompt_embeds, "frame_numbers": frame_numbers}
            return one_by_one(self, latents, conditions | own)
        asked = (control(latents, timestep, prompt_embeds, frame_numbers) for control in self.controls)
        found = [residuals for residuals in asked if residuals is not None]
        if found:
            downs, mids = zip(*found, strict=True)
            conditions |= {
                "down_block_additional_residuals": [sum(level) for level in zip(*downs, strict=True)],
                "mid_block_additional_residual": sum(mids),
            }
        return self.video_unet(latents, timestep, prompt_embeds, **conditions)
