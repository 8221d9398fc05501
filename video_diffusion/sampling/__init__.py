"""From noise to latents: noise, schedulers, guidance and the denoising loop."""

from video_diffusion.sampling.anchored import Anchored
from video_diffusion.sampling.carried_noise import carry_noise
from video_diffusion.sampling.denoise import DenoisingStep, NonFiniteLatentsError, denoise
from video_diffusion.sampling.denoiser import Denoiser, Guided, PromptedModel, guidance_is_off
from video_diffusion.sampling.free_init import free_init, low_pass_filter, mix_frequencies
from video_diffusion.sampling.free_noise import shuffle_noise
from video_diffusion.sampling.guidance_interval import GuidedWithin
from video_diffusion.sampling.noise import (
    MAX_SEED,
    frame_generators,
    initial_noise,
    noise_sha256,
    step_noise,
)
from video_diffusion.sampling.noise_level import NoiseLevels
from video_diffusion.sampling.picture_channels import WithPicture, likeness
from video_diffusion.sampling.run_steps import start_run, steps_done
from video_diffusion.sampling.schedulers import SCHEDULERS, SchedulerRow, make_scheduler
from video_diffusion.sampling.step_numbers import AlongSteps, StepNumbers
from video_diffusion.sampling.step_share import timesteps_between
from video_diffusion.sampling.windowed import Windowed
from video_diffusion.sampling.windows import ContextWindows

__all__ = [
    "MAX_SEED",
    "SCHEDULERS",
    "AlongSteps",
    "Anchored",
    "ContextWindows",
    "Denoiser",
    "DenoisingStep",
    "Guided",
    "GuidedWithin",
    "NoiseLevels",
    "NonFiniteLatentsError",
    "PromptedModel",
    "SchedulerRow",
    "StepNumbers",
    "Windowed",
    "WithPicture",
    "carry_noise",
    "denoise",
    "frame_generators",
    "free_init",
    "guidance_is_off",
    "initial_noise",
    "likeness",
    "low_pass_filter",
    "make_scheduler",
    "mix_frequencies",
    "noise_sha256",
    "shuffle_noise",
    "start_run",
    "step_noise",
    "steps_done",
    "timesteps_between",
]
