"""Whole runs for `benchmark.py`: all steps and the autoencoder, from noise to frames, ours and diffusers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmark_models import SHAPES, Shape, build, build_vae
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from video_diffusion.acceleration import (
    FIRST_SHARE,
    FULL_STEP_EVERY,
    FeatureReuse,
    ReusingGuided,
    accelerate_unet,
)
from video_diffusion.models import VideoUNet, decode_latents, usual_chunk_size
from video_diffusion.sampling import Guided, denoise

SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SCALE = 7.5


def run_variants(name: str, dtype: torch.dtype, device: str, num_steps: int) -> dict[str, Callable[[], Any]]:
    """Frames of a whole guided run of each model, exact and at each speed level."""
    shape = SHAPES[name]
    ours, theirs = build(shape, dtype, device)
    vae = build_vae(shape, dtype, device)
    accelerate_unet(ours)
    reuse = FeatureReuse(ours)
    kind = str(dtype).removeprefix("torch.")
    inputs = (shape, dtype, device, num_steps)
    variants: dict[str, Callable[[], Any]] = {
        f"diffusers {kind}": partial(their_run, theirs, vae, *inputs),
        f"ours {kind}": partial(our_run, ours, vae, *inputs, None, 0),
    }
    for level in FULL_STEP_EVERY:
        if level:
            variants[f"ours {kind} speed {level}"] = partial(our_run, ours, vae, *inputs, reuse, level)
    return variants


def our_run(
    model: VideoUNet,
    vae: Any,
    shape: Shape,
    dtype: torch.dtype,
    device: str,
    num_steps: int,
    reuse: FeatureReuse | None,
    level: int,
) -> Tensor:
    """As the pipeline goes: the loop of steps, then frames a few at a time."""
    latents, embeds = shape.inputs(dtype, device)
    conditions = shape.conditions(dtype, device)
    ask = (model, embeds[1:], embeds[:1], SCALE)
    guided: Any = Guided(*ask, **conditions)
    if reuse is not None:
        num_first = math.ceil(FIRST_SHARE * num_steps)
        guided = ReusingGuided(reuse, FULL_STEP_EVERY[level], num_first, *ask, **conditions)
    scheduler = DDIMScheduler(**SCHEDULER)
    start = latents[:1].float()
    for step in denoise(guided, scheduler, start, num_steps, [0]):
        start = step.latents
    side = 8 * shape.side
    chunk = usual_chunk_size(side, side, dtype.itemsize)
    frames = [_as_bytes(frames) for frames in decode_latents(vae, start, chunk)]
    return torch.cat(frames)


def their_run(model: Any, vae: Any, shape: Shape, dtype: torch.dtype, device: str, num_steps: int) -> Tensor:
    """As `AnimateDiffPipeline` goes: a prompt for every frame, 16 frames decoded at once."""
    latents, embeds = shape.inputs(dtype, device)
    conditions = shape.conditions(dtype, device)
    per_frame = embeds.repeat_interleave(shape.num_frames, 0)
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(num_steps, device=device)
    sample = latents[:1]
    for timestep in scheduler.timesteps:
        doubled = scheduler.scale_model_input(torch.cat([sample, sample]), timestep)
        both = model(doubled, timestep, per_frame, **conditions, return_dict=False)[0]
        negative, prompted = both.chunk(2)
        guided = negative + SCALE * (prompted - negative)
        sample = scheduler.step(guided, timestep, sample, return_dict=False)[0]
    frames = sample[0].transpose(0, 1) / vae.config.scaling_factor
    decoded = [vae.decode(frames[first : first + 16]).sample for first in range(0, len(frames), 16)]
    return _as_bytes((torch.cat(decoded).float() / 2 + 0.5).clamp(0, 1))


def _as_bytes(frames: Tensor) -> Tensor:
    return (frames * 255).round().to(torch.uint8).cpu()
