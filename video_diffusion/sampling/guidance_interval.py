"""Guidance on part of the way from noise to a clip only."""

from video_diffusion.sampling.denoiser import Denoiser, Timestep
from video_diffusion.shapes import Latents


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
