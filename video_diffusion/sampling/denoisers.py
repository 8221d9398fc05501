"""What a model predicts, wrapped: guidance, guidance within an interval, numbers over steps, known frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float, Shaped
from torch import Tensor

from video_diffusion.sampling.schedulers import NoiseLevels, Scheduler, start_run
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
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: object
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict for all videos of the batch, each with its own prompt."""
        ...


class StepNumbers:
    """A number that changes over the steps of a run, found by the timestep at which the model is asked.

    A run may begin again, as FreeInit's does, and a step may ask twice, as Heun's does.

    Args:
        scheduler: A diffusers scheduler; only its configuration is used.
        numbers: Of the steps that are done, the first one first.
        num_inference_steps, strength, enforce_steps: Of the run, see `start_run`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        numbers: Sequence[float],
        num_inference_steps: int,
        strength: float = 1.0,
        enforce_steps: bool = False,
    ) -> None:
        self.numbers = tuple(numbers)
        started, timesteps = start_run(scheduler, num_inference_steps, strength, enforce_steps)
        # Heun's second question of a step is at the timestep where the next step begins.
        steps = [(index + started.order - 1) // started.order for index in range(len(timesteps))]
        self._by_timestep = {
            float(timestep): self.numbers[min(step, len(self.numbers) - 1)]
            for timestep, step in zip(timesteps, steps, strict=True)
        }

    def at(self, timestep: Timestep) -> float:
        """Tell the number of the step that asks at a timestep, or at the one nearest to it."""
        asked = float(timestep)
        return self._by_timestep[min(self._by_timestep, key=lambda known: abs(known - asked))]


@dataclass(frozen=True)
class Weaker:
    """A worse answer to the same prompt, made in the pass of the others, that guidance leads away from.

    After autoguidance (Karras et al. 2024) and spatiotemporal skip guidance (Hyung et al. 2024): what a model
    answers without some of its layers lacks what those layers are for. A further kind is a condition by which
    the model leaves something out, and one of these.

    Attributes:
        scale: Of prompt - weaker, which is added to the prediction.
        condition: Argument of the model that names the videos of a batch that are answered in this way.
    """

    scale: float
    condition: str


def temporal_guidance(scale: float) -> Weaker:
    """Lead away from what the model answers without its temporal layers: from frames that do not agree."""
    return Weaker(scale, "image_videos")


class Guided:
    """Classifier-free guidance (Ho & Salimans 2022, equation 6): from the negative prompt to the prompt.

    The prediction is negative + guidance_scale · (prompt - negative), plus scale · (prompt - weaker) for each
    weaker answer, all from one pass over a batch of as many parts. A scale of exactly 1 is the prompt's own
    prediction and takes a pass without doubling; diffusers does that for everything below 1 too, which here
    stays a blend of the two.

    The model runs in the precision of its prompt embeddings, whatever that of the latents.

    Args:
        model: What is asked for each prediction.
        prompt_embeds: Of each video's prompt.
        negative_prompt_embeds: Of each video's negative prompt; not read, and may be None, if the scale is 1.
        guidance_scale: 0 is the negative prompt alone, 1 the prompt alone, usual are 2 to 10; one number, or
            one for each frame, or one for each step.
        weaker: Further answers to lead away from.
        conditions: Further arguments for every call of the model, which fit the batch without the weaker
            answers: doubled if guidance is on.

    Attributes:
        parts: What the parts of a batch are, in order: the weaker answers, "negative", "prompt".

    Raises:
        ValueError: Guidance without negative embeddings, or with embeddings of another shape.
    """

    def __init__(
        self,
        model: PromptedModel,
        prompt_embeds: PromptEmbeds,
        negative_prompt_embeds: Tensor | None,
        guidance_scale: FrameNumbers | StepNumbers,
        weaker: Sequence[Weaker] = (),
        **conditions: object,
    ) -> None:
        self.model = model
        self.is_off = guidance_is_off(guidance_scale)
        self.guidance_scale = guidance_scale
        self.weaker = tuple(weaker)
        if not self.is_off:
            prompt_embeds, negative_prompt_embeds = _alike(prompt_embeds, negative_prompt_embeds)
        self.num_videos = len(prompt_embeds)
        usual = 1 if self.is_off or negative_prompt_embeds is None else 2
        self.num_parts = len(self.weaker) + usual
        self.prompt_conditions = parts_of_conditions(conditions, usual, [usual - 1])
        parts = [*[usual - 1] * len(self.weaker), *range(usual)]
        self.conditions = parts_of_conditions(conditions, usual, parts) if self.weaker else dict(conditions)
        for part, answer in enumerate(self.weaker):
            first = part * self.num_videos
            self.conditions[answer.condition] = tuple(range(first, first + self.num_videos))
        negative = [] if usual == 1 or negative_prompt_embeds is None else [negative_prompt_embeds]
        prompts = [*[prompt_embeds] * len(self.weaker), *negative, prompt_embeds]
        self.prompt_embeds = torch.cat(prompts) if len(prompts) > 1 else prompt_embeds

    def __call__(self, latents: Latents, timestep: Timestep) -> Latents:
        """Predict, guided."""
        *weaker, last = self.ask(latents, timestep)
        negative = None if self.is_off else weaker.pop()
        return self.combine(timestep, last, negative, [last - answer for answer in weaker])

    def ask(self, latents: Latents, timestep: Timestep) -> tuple[Latents, ...]:
        """Predict the weaker answers, the negative prompt's if it counts, and the prompt's, in one pass."""
        inputs = latents.to(self.prompt_embeds.dtype)
        inputs = torch.cat([inputs] * self.num_parts) if self.num_parts > 1 else inputs
        noise_pred = self.model(inputs, timestep, self.prompt_embeds, **self.conditions)
        return noise_pred.to(latents.dtype).chunk(self.num_parts)

    def combine(
        self, timestep: Timestep, prompted: Latents, negative: Latents | None, ahead: Sequence[Latents]
    ) -> Latents:
        """Put together what guidance and the weaker answers make of the prompt's own prediction.

        Args:
            timestep: Of the step.
            prompted: The prompt's own prediction.
            negative: The negative prompt's; None if guidance is off.
            ahead: By how much the prompt's prediction is ahead of each weaker answer.
        """
        noise_pred = prompted
        if negative is not None:
            noise_pred = negative + self._scale(timestep, negative) * (prompted - negative)
        for answer, difference in zip(self.weaker, ahead, strict=True):
            noise_pred = noise_pred + answer.scale * difference
        return noise_pred

    def _scale(self, timestep: Timestep, like: Latents) -> float | Float[Tensor, "f 1 1"]:
        scale = self.guidance_scale
        if isinstance(scale, StepNumbers):
            return scale.at(timestep)
        return scale[:, None, None].to(like) if isinstance(scale, Tensor) else scale


def _alike(prompt_embeds: PromptEmbeds, negative: Tensor | None) -> tuple[PromptEmbeds, PromptEmbeds]:
    """Both embeddings per video, or both per frame."""
    if negative is not None and negative.ndim != prompt_embeds.ndim:
        if prompt_embeds.ndim == 4:
            negative = repeat(negative, "b n d -> b f n d", f=prompt_embeds.shape[1])
        else:
            prompt_embeds = repeat(prompt_embeds, "b n d -> b f n d", f=negative.shape[1])
    if negative is None or negative.shape != prompt_embeds.shape:
        given = None if negative is None else tuple(negative.shape)
        raise ValueError(
            f"negative_prompt_embeds must have the shape {tuple(prompt_embeds.shape)} of prompt_embeds, "
            f"but has {given}; encode both with the same text encoder, or set guidance_scale to 1"
        )
    return prompt_embeds, negative


def parts_of_conditions(
    conditions: Mapping[str, object], num_parts: int, chosen: Sequence[int]
) -> dict[str, object]:
    """Take a model's conditions for some parts of a batch; of a list's every tensor.

    Args:
        conditions: For the whole batch.
        num_parts: Of the batch, all of one size.
        chosen: Numbers of the parts, in the wanted order; one may be taken twice.
    """
    added = conditions.get("added_cond_kwargs")
    if not isinstance(added, Mapping):
        return dict(conditions)

    def take(value: Tensor) -> Tensor:
        parts = value.chunk(num_parts)
        return torch.cat([parts[part] for part in chosen])

    taken = {
        name: [take(each) for each in value] if isinstance(value, list) else take(value)
        for name, value in added.items()
    }
    return {**conditions, "added_cond_kwargs": taken}


def guidance_is_off(guidance_scale: FrameNumbers | StepNumbers) -> bool:
    """Tell whether a scale is 1 for every frame or step: then the negative prompt is never asked for."""
    if isinstance(guidance_scale, StepNumbers):
        return all(number == 1 for number in guidance_scale.numbers)
    return bool((torch.as_tensor(guidance_scale) == 1).all())


# Guidance on part of the way from noise to a clip only.


class GuidedWithin:
    """Guidance between two noise levels; outside them the prompt's own prediction, at half the cost.

    Another sampler, not an approximation: Kynkäänniemi et al. 2024 find that guidance at the highest noise
    levels costs variety and at the lowest does nothing.

    Args:
        guided: Asked within the interval, its ends included.
        prompted: Asked outside it.
        interval: Lowest and highest timestep as shares of the trained ones: 0 is no noise, 1 is noise alone.
        num_train_timesteps: Timesteps that the model was trained on.
    """

    def __init__(
        self, guided: Denoiser, prompted: Denoiser, interval: tuple[float, float], num_train_timesteps: int
    ) -> None:
        self.guided = guided
        self.prompted = prompted
        self.lowest, self.highest = (share * num_train_timesteps for share in interval)

    def __call__(self, latents: Latents, timestep: Timestep) -> Latents:
        """Predict, guided or not."""
        within = self.lowest <= float(timestep) <= self.highest
        return (self.guided if within else self.prompted)(latents, timestep)


class AlongSteps:
    """A model some of whose conditions change from step to step.

    Args:
        model: Takes them.
        conditions: By name.
    """

    def __init__(self, model: PromptedModel, conditions: Mapping[str, StepNumbers]) -> None:
        self.model = model
        self.conditions = conditions

    def __call__(
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: object
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict with the numbers of the step."""
        now = {name: numbers.at(timestep) for name, numbers in self.conditions.items()}
        return self.model(latents, timestep, prompt_embeds, **{**conditions, **now})


# Frames that are known beforehand: the prediction is pulled towards the one that ends at them.


class Anchored:
    """A denoiser some of whose frames are known, wholly or in part.

    A noisy frame x_t and its clean latents x_0 leave only one prediction that is right; it is blended with
    the denoiser's own: (1 - w)·predicted + w·right, where w = weight^(1/(1 - ᾱ_t)). A weight of 1 is 1 at
    every step, and any scheduler ends at the known frame; the others see it through temporal attention. A
    weight below 1 holds while a frame is mostly noise, which decides where things are, and lets go when
    details are drawn.

    Args:
        denoiser: What is asked for the rest.
        clean_latents: Of each video; only frames with a weight matter.
        weights: For each frame 0 (free) to 1 (known).
        levels: The schedule that the model was trained with, and what it predicts.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        clean_latents: Latents,
        weights: Float[Tensor, " f"],
        levels: NoiseLevels,
    ) -> None:
        self.denoiser = denoiser
        self.clean_latents = clean_latents
        self.weights = weights[:, None, None]
        self.levels = levels

    def __call__(self, latents: Latents, timestep: Timestep) -> Latents:
        """Predict, with the known frames pulled to what is right for them."""
        predicted = self.denoiser(latents, timestep)
        alphas_cumprod = self.levels.alphas_cumprod(float(timestep))
        weights = self.weights.to(predicted) ** (1 / max(1 - alphas_cumprod, 1e-6))
        # What x_t = √ᾱ·x_0 + √(1-ᾱ)·ε leaves for the known x_0.
        clean = self.clean_latents.to(latents).expand_as(latents)
        signal = math.sqrt(alphas_cumprod)
        amount = math.sqrt(max(1 - alphas_cumprod, 1e-12))
        noise = (latents - signal * clean) / amount
        right = {"sample": clean, "epsilon": noise, "v_prediction": signal * noise - amount * clean}
        return torch.lerp(predicted, right[self.levels.prediction_type].to(predicted), weights)


# An image as further input channels: how PIA adapters are told what to animate (Zhang et al. 2024).


LIKENESS = (1.0, 0.9, 0.85, 0.85, 0.85, 0.8)
"""How alike frames 0, 1, 2, … are to the image, the last value for the rest: PIA's "small motion"."""


def likeness(num_frames: int, hold: float | None) -> Float[Tensor, " f"]:
    """List how alike the image each frame shall be: 1, then `hold` for all, or `LIKENESS` if it is None."""
    values = LIKENESS if hold is None else (1.0, hold)
    return torch.tensor([values[min(frame, len(values) - 1)] for frame in range(num_frames)])


class WithPicture:
    """A model whose input is the noisy latents, then a mask of likeness, then the image's latents.

    Args:
        model: Takes them all.
        image_latents: Of the image, for each frame; one video serves all.
        alike: 0 to 1 for each frame.
    """

    def __init__(self, model: PromptedModel, image_latents: Latents, alike: Float[Tensor, " f"]) -> None:
        self.model = model
        mask = alike.to(image_latents)[:, None, None].expand_as(image_latents[:, :1])
        self.channels = torch.cat([mask, image_latents], dim=1)

    def __call__(
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: object
    ) -> Latents:
        """Predict for all videos, each with the same image."""
        channels = self.channels.to(latents).expand(len(latents), -1, -1, -1, -1)
        return self.model(torch.cat([latents, channels], dim=1), timestep, prompt_embeds, **conditions)
