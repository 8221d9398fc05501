"""From noise to latents: noise, schedulers, guidance and the denoising loop."""

from video_diffusion.sampling.denoise import DenoisingStep, NonFiniteLatentsError, denoise
from video_diffusion.sampling.denoisers import (
    AlongSteps,
    Anchored,
    Denoiser,
    Guided,
    GuidedWithin,
    PromptedModel,
    StepNumbers,
    WithPicture,
    guidance_is_off,
    likeness,
)
from video_diffusion.sampling.free_init import free_init, low_pass_filter, mix_frequencies
from video_diffusion.sampling.noise import (
    MAX_SEED,
    carry_noise,
    frame_generators,
    initial_noise,
    noise_sha256,
    shuffle_noise,
    step_noise,
)
from video_diffusion.sampling.schedulers import (
    SCHEDULERS,
    NoiseLevels,
    SchedulerRow,
    make_scheduler,
    start_run,
    steps_done,
    timesteps_between,
    too_few_steps,
)
from video_diffusion.sampling.windows import ContextWindows, Windowed

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
    "too_few_steps",
]
