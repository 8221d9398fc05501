"""What the denoising loop asks of a model, and guidance as a wrapper around one.

Whatever changes a prediction, guidance here and later windows, is a callable around a callable; the loop
never knows.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float, Shaped
from torch import Tensor

from video_diffusion.shapes import FrameNumbers, Latents, PromptEmbeds

Timestep = Shaped[Tensor, ""]


@runtime_checkable
class Denoiser(Protocol):
    """Predicts what the scheduler asks for (noise, velocity or sample) from noisy latents."""

    def __call__(self, latents: Latents, timestep: Timestep) -> Latents:
        """Predict for all videos of the batch at one timestep."""
        ...


@runtime_checkable
class PromptedModel(Protocol):
    """A model that is told the prompt with every call, such as a `VideoUNet`."""

    def __call__(
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: Any
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict for all videos of the batch, each with its own prompt."""
        ...


@runtime_checkable
class ChangingNumber(Protocol):
    """A number that changes from step to step, such as `StepNumbers`."""

    numbers: tuple[float, ...]

    def at(self, timestep: Timestep) -> float:
        """Tell the number of the step that asks at this timestep."""
        ...


class Guided:
    """Classifier-free guidance (Ho & Salimans 2022, equation 6): from the negative prompt to the prompt.

    The prediction is negative + guidance_scale · (prompt - negative), both from one pass over a doubled
    batch. A scale of exactly 1 is the prompt's own prediction and takes a pass without doubling; diffusers
    does that for everything below 1 too, which here stays a blend of the two.

    The model runs in the precision of its prompt embeddings, whatever that of the latents.

    Args:
        model: What is asked for each prediction.
        prompt_embeds: Of each video's prompt.
        negative_prompt_embeds: Of each video's negative prompt; not read, and may be None, if the scale is 1.
        guidance_scale: 0 is the negative prompt alone, 1 the prompt alone, usual are 2 to 10; one number, or
            one for each frame, or one for each step.
        conditions: Further arguments for every call of the model, which fit the doubled batch.

    Raises:
        ValueError: Guidance without negative embeddings, or with embeddings of another shape.
    """

    def __init__(
        self,
        model: PromptedModel,
        prompt_embeds: PromptEmbeds,
        negative_prompt_embeds: Tensor | None,
        guidance_scale: FrameNumbers | ChangingNumber,
        **conditions: Any,
    ) -> None:
        self.model = model
        self.is_off = guidance_is_off(guidance_scale)
        self.guidance_scale = guidance_scale
        self.conditions = conditions
        self.prompt_embeds = prompt_embeds
        if self.is_off:
            return
        if negative_prompt_embeds is not None:
            prompt_embeds, negative_prompt_embeds = _alike(prompt_embeds, negative_prompt_embeds)
        if negative_prompt_embeds is None or negative_prompt_embeds.shape != prompt_embeds.shape:
            given = None if negative_prompt_embeds is None else tuple(negative_prompt_embeds.shape)
            raise ValueError(
                f"negative_prompt_embeds must have the shape {tuple(prompt_embeds.shape)} of prompt_embeds, "
                f"but has {given}; encode both with the same text encoder, or set guidance_scale to 1"
            )
        self.prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])

    def __call__(self, latents: Latents, timestep: Timestep) -> Latents:
        """Predict, guided."""
        inputs = latents.to(self.prompt_embeds.dtype)
        if self.is_off:
            return self._predict(inputs, timestep).to(latents.dtype)
        negative, prompted = self._predict(torch.cat([inputs, inputs]), timestep).to(latents.dtype).chunk(2)
        return negative + self._scale(timestep, negative) * (prompted - negative)

    def _scale(self, timestep: Timestep, like: Latents) -> Any:
        scale = self.guidance_scale
        if isinstance(scale, ChangingNumber):
            return scale.at(timestep)
        return scale[:, None, None].to(like) if isinstance(scale, Tensor) else scale

    def _predict(self, latents: Latents, timestep: Timestep) -> Latents:
        return self.model(latents, timestep, self.prompt_embeds, **self.conditions)


def guidance_is_off(guidance_scale: FrameNumbers | ChangingNumber) -> bool:
    """Tell whether a scale is 1 for every frame or step: then the negative prompt is never asked for."""
    if isinstance(guidance_scale, ChangingNumber):
        return all(number == 1 for number in guidance_scale.numbers)
    return bool((torch.as_tensor(guidance_scale) == 1).all())


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat embeddings per video for each frame if the others are per frame."""
    if first.ndim == second.ndim:
        return first, second
    num_frames = (first if first.ndim == 4 else second).shape[1]
    repeated = [
        embeds if embeds.ndim == 4 else repeat(embeds, "b n d -> b f n d", f=num_frames)
        for embeds in (first, second)
    ]
    return repeated[0], repeated[1]
