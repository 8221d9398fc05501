"""What a loaded model makes of settings: everything filled in, and checked where only it can tell."""

import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_diffusion.loading import ModelParts
from video_diffusion.models import (
    MotionAdapter,
    check_blocks,
    decodes_in_time,
    latent_scale,
    usual_chunk_size,
)
from video_diffusion.sampling import ContextWindows, guidance_is_off, steps_done, too_few_steps
from video_diffusion.settings import (
    CHANGING_NUMBERS,
    GenerationSettings,
    ResolvedSettings,
    embedding_files,
    ignored_settings,
    stretched_positions,
    windows_note,
)
from video_diffusion.video.images import with_sources

FREENOISE_WINDOW = 16  # frames, as in its paper


def plan(
    asked: GenerationSettings,
    parts: ModelParts,
    device: torch.device,
    defaults: Mapping[str, Any],
    compiler_problem: str | None = None,
) -> ResolvedSettings:
    """Fill in what settings leave open, and check what only this model can tell: the one place for both.

    Args:
        asked: Of one clip.
        parts: The model.
        device: It is on.
        defaults: See `model_defaults`.
        compiler_problem: Why PyTorch cannot compile here; None if it can.

    Raises:
        ValueError: Size or length that the model cannot make, or settings that name another model.
    """
    own = {
        "model": parts.identity.name,
        "motion_adapter": parts.identity.motion_adapter,
        "vae": parts.vae_name,
        "text_encoder": parts.text_encoder_name,
        "dtype": str(parts.unet.dtype).removeprefix("torch."),
        "quantize": parts.quantize,
        "device": str(device),
    }
    for field in asked.model_fields_set & own.keys():
        if getattr(asked, field) not in {own[field], "auto", None}:
            raise ValueError(
                f"{field} is {getattr(asked, field)!r} but this pipeline was loaded with {own[field]!r}; "
                "leave it out, or load another pipeline"
            )
    asked = with_sources(asked)
    values = dict(asked.with_defaults(defaults)) | own
    scale = latent_scale(parts.vae)
    for field in ("height", "width"):
        if values[field] % scale:
            raise ValueError(
                f"{field} must be a multiple of {scale} for this model, but is {values[field]}; "
                f"set it to {values[field] // scale * scale}"
            )
    if values["decode_chunk_size"] is None:
        values["decode_chunk_size"] = usual_chunk_size(
            values["height"], values["width"], parts.vae.dtype.itemsize, decodes_in_time(parts.vae)
        )
    if values["compile"] and compiler_problem is not None:
        warnings.warn(
            f"compile is ignored: {compiler_problem}; leave it out, or put that right", stacklevel=3
        )
        values["compile"] = False
    resolved = ResolvedSettings.model_construct(asked.model_fields_set, **values)
    _check_length(resolved, parts.motion_adapter)
    _check_inputs(resolved, parts)
    _check_speed(resolved)
    for name in ("prompt", "negative_prompt", *CHANGING_NUMBERS):
        resolved.keyframes(name)
    for name in CHANGING_NUMBERS:
        numbers_along_steps(resolved, name)
    for name in ("motion_scale_blocks", "motion_effect_blocks"):
        check_blocks(name, dict(getattr(resolved, name)), parts.motion_adapter)
    fewest = too_few_steps(resolved.scheduler, resolved.num_inference_steps, parts.scheduler_config)
    if fewest is not None:
        warnings.warn(
            f"num_inference_steps {resolved.num_inference_steps} is too few for {resolved.scheduler} with "
            f"this model, and clips may go wrong; set it to {fewest} or more, or take another scheduler",
            stacklevel=3,
        )
    in_windows = windows_note(asked, resolved)
    windowed = asked.model_copy(update={"context_length": resolved.context_length})
    for note in (in_windows, *_without_effect(asked, resolved), *ignored_settings(windowed)):
        if note is not None:
            warnings.warn(note, stacklevel=3)
    return resolved


def context_windows(settings: ResolvedSettings) -> ContextWindows:
    """Say how a clip is divided; a clip made in one pass is one window.

    FreeNoise's windows are those of its paper: 16 frames, a quarter of a window apart, never moving; only the
    last one is shifted back to end with the clip.
    """
    longest = FREENOISE_WINDOW if settings.freenoise else settings.num_frames
    length = settings.context_length or max(min(settings.num_frames, longest), 2)
    usual_overlap = length - max(length // 4, 1) if settings.freenoise else length // 4
    schedule = "uniform_looped" if settings.loop else settings.context_schedule
    return ContextWindows(
        num_frames=settings.num_frames,
        length=length,
        overlap=usual_overlap if settings.context_overlap is None else settings.context_overlap,
        stride=settings.context_stride,
        schedule="static" if settings.freenoise else schedule,
        fuse=settings.context_fuse,
    )


def numbers_along_frames(settings: ResolvedSettings, name: str) -> float | Tensor:
    """Tell the guidance scale, motion scale or motion effect of a clip: one number, or one per frame."""
    numbers = settings.along_frames(name)
    return torch.tensor(numbers) if isinstance(numbers, list) else numbers


def numbers_along_steps(settings: ResolvedSettings, name: str) -> list[float] | None:
    """List a number for each step that the run does; None if it does not change over the steps.

    Raises:
        ValueError: A step outside the run, two numbers for one step, or a strength that leaves no step.
    """
    if not getattr(settings, f"{name}_steps"):
        return None
    return settings.along_steps(name, steps_done(*settings.run))


def has_guidance(settings: ResolvedSettings) -> bool:
    """Tell whether the negative prompt is ever asked for."""
    over_steps = numbers_along_steps(settings, "guidance_scale")
    if over_steps is not None:
        return any(number != 1 for number in over_steps)
    return not guidance_is_off(numbers_along_frames(settings, "guidance_scale"))


def has_temporal_guidance(settings: ResolvedSettings) -> bool:
    """Tell whether there are temporal layers to be left out, and a reason to."""
    has_layers = settings.num_frames > 1 and settings.motion_adapter != "none"
    return settings.temporal_guidance != 0 and has_layers


def _check_inputs(settings: ResolvedSettings, parts: ModelParts) -> None:
    """Refuse inputs that this model does not take, or that do not go together."""
    has_picture = settings.init_image is not None or settings.extend is not None
    if parts.motion_adapter.conv_in is not None and not has_picture:
        raise ValueError(
            f"motion_adapter {parts.identity.motion_adapter or parts.identity.name} is a PIA adapter, which "
            "animates a picture; set init_image to one"
        )
    for name in ("init_video", "refine"):
        if settings.freeinit > 1 and getattr(settings, name) is not None:
            raise ValueError(
                f"freeinit {settings.freeinit} does not go with {name}, which it would wash out; drop one"
            )
    if settings.extend is not None:
        if settings.extend_overlap >= settings.num_frames:
            raise ValueError(
                f"extend_overlap is {settings.extend_overlap}, but num_frames, which counts them too, is "
                f"{settings.num_frames}; set it to {settings.num_frames - 1} or less"
            )
        if settings.loop or settings.context_schedule == "uniform_looped":
            raise ValueError("loop does not go with extend, whose clip begins before what is made; drop one")
    settings.check_image_prompt()
    settings.check_prompt_words()
    if settings.noise_video is not None and settings.noise_type != "independent":
        raise ValueError(
            f"noise_video does not go with noise_type {settings.noise_type}; set noise_type to independent"
        )
    settings.sparse_frames()


def _check_length(settings: ResolvedSettings, adapter: MotionAdapter) -> None:
    """Refuse windows, or clips without windows, that are too long for the temporal layers."""
    known, longest = adapter.max_num_frames, context_windows(settings).longest
    if settings.position_stretch == 1:
        if settings.context_length is None:
            adapter.check_num_frames(longest)
        elif min(settings.context_length, settings.num_frames) > known:
            raise ValueError(
                f"context_length is {settings.context_length} but this motion adapter knows "
                f"{known} positions; set it to {known} or less"
            )
        return
    most = stretched_positions(known, settings.position_stretch)
    if longest > most:
        name = "num_frames" if settings.context_length is None else "context_length"
        raise ValueError(
            f"{name} is {longest} but position_stretch {settings.position_stretch:g} makes {most} frames of "
            f"the {known} positions that this motion adapter knows; set context_length to {most} or less, or "
            f"position_stretch to {math.ceil(1000 * (longest - 1) / max(known - 1, 1)) / 1000:g} or more"
        )


def _check_speed(settings: ResolvedSettings) -> None:
    """Refuse to reuse what a window made on frames that it no longer holds, or what guidance never made."""
    if not settings.speed:
        return
    for name in ("guidance_interval", "controlnet", "sparsectrl"):
        if getattr(settings, name):
            raise ValueError(
                f"speed is {settings.speed} but {name} is set, and they do not go together; drop one"
            )
    windows = context_windows(settings)
    if any(windows.at(step) != windows.at(0) for step in range(1, 4)):
        raise ValueError(
            f"speed is {settings.speed} but context_schedule {settings.context_schedule!r} moves its windows "
            "from step to step; set context_schedule to static, or speed to exact"
        )


def _without_effect(asked: GenerationSettings, resolved: ResolvedSettings) -> Iterator[str]:
    """Say what the user asked for that changes nothing with this model."""
    if resolved.keyframes("prompt")[0][1] != resolved.prompt:
        yield "prompt is ignored where prompt_travel says what frame 0 shows; leave one of them out"
    if (asked.negative_prompt or asked.negative_prompt_travel) and not has_guidance(resolved):
        yield "negative_prompt is ignored at guidance_scale 1, which switches guidance off"
    unused = asked.embedding_files.keys() - asked.used_embeddings.keys()
    for entry in asked.embeddings:
        if not Path(entry).is_dir() and unused & embedding_files([entry]).keys():
            yield f"embeddings gives {entry}, whose word no prompt holds; write it into one, or leave it out"
    if asked.temporal_guidance and not has_temporal_guidance(resolved):
        yield "temporal_guidance is ignored without temporal layers or with one frame; leave it out"
    if asked.deflicker and resolved.num_frames == 1:
        yield "deflicker is ignored with one frame, which has no neighbours; leave it out"
    alpha_counts = resolved.noise_type in {"mixed", "progressive"} or resolved.noise_video is not None
    if not alpha_counts and asked.noise_alpha not in {None, 1}:
        yield f"noise_alpha is ignored by {resolved.noise_type} noise; set noise_type to mixed"
