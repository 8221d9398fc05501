"""Frames that are known beforehand: the prediction is pulled towards the one that ends at them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.sampling.denoiser import Denoiser, Timestep
from video_diffusion.sampling.noise_level import NoiseLevels
from video_diffusion.shapes import Latents


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
        return torch.lerp(predicted, self._right(latents, alphas_cumprod).to(predicted), weights)

    def _right(self, latents: Latents, alphas_cumprod: float) -> Latents:
        """The prediction that x_t = √ᾱ·x_0 + √(1-ᾱ)·ε leaves for the known x_0."""
        clean = self.clean_latents.to(latents).expand_as(latents)
        signal = math.sqrt(alphas_cumprod)
        amount = math.sqrt(max(1 - alphas_cumprod, 1e-12))
        noise = (latents - signal * clean) / amount
        if self.levels.prediction_type == "sample":
            return clean
        return noise if self.levels.prediction_type == "epsilon" else signal * noise - amount * clean
