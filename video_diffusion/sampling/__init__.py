"""From noise to latents: noise, schedulers, guidance and the denoising loop."""

from video_diffusion.sampling.denoise import DenoisingStep, NonFiniteLatentsError, denoise
from video_diffusion.sampling.denoiser import Denoiser, Guided, PromptedModel, guidance_is_off
from video_diffusion.sampling.noise import (
    MAX_SEED,
    frame_generators,
    initial_noise,
    noise_sha256,
    step_noise,
)
from video_diffusion.sampling.schedulers import SCHEDULERS, SchedulerRow, make_scheduler
from video_diffusion.sampling.windowed import Windowed
from video_diffusion.sampling.windows import ContextWindows

__all__ = [
    "MAX_SEED",
    "SCHEDULERS",
    "ContextWindows",
    "Denoiser",
    "DenoisingStep",
    "Guided",
    "NonFiniteLatentsError",
    "PromptedModel",
    "SchedulerRow",
    "Windowed",
    "denoise",
    "frame_generators",
    "guidance_is_off",
    "initial_noise",
    "make_scheduler",
    "noise_sha256",
    "step_noise",
]
