"""What a loaded model makes of settings: everything filled in, and checked where only it can tell."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from video_diffusion.loading import ModelParts
from video_diffusion.models import MotionAdapter, check_blocks, latent_scale, usual_chunk_size
from video_diffusion.sampling import ContextWindows, guidance_is_off, steps_done
from video_diffusion.settings import (
    COMMON_DEFAULTS,
    GenerationSettings,
    along_frames,
    check_image_prompt,
    ignored_settings,
    place_keyframes,
    whole_frames,
)

CHANGING_NUMBERS = ("guidance_scale", "motion_scale", "motion_effect")  # along frames, or over the steps
USUAL_NUM_FRAMES = 16
USUAL_VIDEO_STRENGTH = 0.6
USUAL_IMAGE_STRENGTH = 0.75
USUAL_IMAGE_HOLD = 0.8  # with the strength, what kept the embedded model's clips from jumping off


def model_defaults(parts: ModelParts) -> dict[str, Any]:
    """Collect what the caller may leave open: what is usual, the sizes of the networks, the model's own."""
    sample_size = parts.unet.config.sample_size
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size or (64, 64)
    scale, adapter = latent_scale(parts.vae), parts.motion_adapter
    of_the_networks = {
        "num_frames": min(USUAL_NUM_FRAMES, adapter.max_num_frames),
        "height": height * scale,
        "width": width * scale,
        "noise_type": adapter.config.noise_type,
        "noise_alpha": adapter.config.noise_alpha,
    }
    return {**COMMON_DEFAULTS, **of_the_networks, **parts.defaults}


def resolve(
    settings: GenerationSettings, parts: ModelParts, device: torch.device, defaults: dict[str, Any]
) -> GenerationSettings:
    """Fill in what settings leave open, and check what only this model can tell."""
    own = {
        "model": parts.identity.name,
        "motion_adapter": parts.identity.motion_adapter,
        "dtype": str(parts.unet.dtype).removeprefix("torch."),
        "quantize": parts.quantize,
        "device": str(device),
    }
    for field in settings.model_fields_set & own.keys():
        asked = getattr(settings, field)
        if asked not in {own[field], "auto", None}:
            raise ValueError(
                f"{field} is {asked!r} but this pipeline was loaded with {own[field]!r}; "
                "leave it out, or load another pipeline"
            )
    resolved = settings.with_defaults(defaults).model_copy(update=own)
    if resolved.decode_chunk_size is None:
        size: Any = (resolved.height, resolved.width, parts.vae.dtype.itemsize)
        resolved = resolved.model_copy(update={"decode_chunk_size": usual_chunk_size(*size)})
    _check_length(resolved, parts.motion_adapter)
    if parts.motion_adapter.conv_in is not None and resolved.init_image is None:
        raise ValueError(
            f"motion_adapter {parts.identity.motion_adapter or parts.identity.name} is a PIA adapter, which "
            "animates a picture; set init_image to one"
        )
    if resolved.freeinit > 1 and resolved.init_video is not None:
        raise ValueError(
            f"freeinit {resolved.freeinit} does not go with init_video, which it would wash out; drop one"
        )
    check_image_prompt(resolved)
    if resolved.noise_video is not None and resolved.noise_type != "independent":
        raise ValueError(
            f"noise_video does not go with noise_type {resolved.noise_type}; set noise_type to independent"
        )
    _check_speed(resolved)
    for name in ("prompt", "negative_prompt", *CHANGING_NUMBERS):
        _placed(resolved, name)
    for name in CHANGING_NUMBERS:
        numbers_along_steps(resolved, name)
    for name in ("motion_scale_blocks", "motion_effect_blocks"):
        check_blocks(name, dict(getattr(resolved, name)), parts.motion_adapter)
    sparse_pictures(resolved)
    scale = latent_scale(parts.vae)
    for field in ("height", "width"):
        side = getattr(resolved, field)
        if side % scale:
            raise ValueError(
                f"{field} must be a multiple of {scale} for this model, but is {side}; "
                f"set it to {side // scale * scale}"
            )
    for warning in _without_effect(settings, resolved):
        warnings.warn(warning, stacklevel=3)
    return resolved


def context_windows(settings: GenerationSettings) -> ContextWindows:
    """Say how a clip of resolved settings is divided; a clip made in one pass is one window.

    FreeNoise's windows are those of its paper: 16 frames, a quarter of a window apart, never moving; only the
    last one is shifted back to end with the clip.
    """
    assert settings.num_frames is not None  # nothing is left open
    length = settings.context_length or max(
        min(settings.num_frames, USUAL_NUM_FRAMES if settings.freenoise else 4096), 2
    )
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


def prompt_keyframes(settings: GenerationSettings, negative: bool = False) -> list[tuple[float, str]]:
    """List the prompts of a clip of resolved settings, or its negative prompts, and where each holds."""
    name = "negative_prompt" if negative else "prompt"
    keyframes = _placed(settings, name)
    if negative:
        return keyframes
    around = (settings.prompt_head, settings.prompt_tail)
    return [(frame, " ".join(filter(None, (around[0], text, around[1])))) for frame, text in keyframes]


def numbers_along_frames(settings: GenerationSettings, name: str) -> float | Tensor:
    """Tell the guidance scale or motion scale of a clip: one number, or one per frame if it travels."""
    assert settings.num_frames is not None
    keyframes = _placed(settings, name)
    if len(keyframes) == 1:
        return float(keyframes[0][1])
    return torch.tensor(along_frames(keyframes, settings.num_frames, settings.loop))


def numbers_along_steps(settings: Any, name: str) -> list[float] | None:
    """List a number for each step that the run of resolved settings does; None if it does not change."""
    steps = getattr(settings, f"{name}_steps")
    if not steps:
        return None
    num_steps = steps_done(*run_of(settings))
    keyframes = place_keyframes(f"{name}_steps", steps, num_steps, getattr(settings, name), "step")
    return along_frames(keyframes, num_steps)


def run_of(settings: Any) -> tuple[int, float, bool]:
    """Steps, strength and whether these steps are enforced, as `start_run` takes them."""
    if settings.init_video is None and settings.init_image is None:
        return settings.num_inference_steps, 1.0, False
    return settings.num_inference_steps, input_strength(settings), settings.enforce_steps


def has_guidance(settings: Any) -> bool:
    """Tell whether the negative prompt of a clip of resolved settings is ever asked for."""
    over_steps = numbers_along_steps(settings, "guidance_scale")
    if over_steps is not None:
        return any(number != 1 for number in over_steps)
    return not guidance_is_off(numbers_along_frames(settings, "guidance_scale"))


def sparse_pictures(settings: Any) -> dict[int, str]:
    """List the pictures for a SparseCtrl encoder by the frames of a clip of resolved settings."""
    return whole_frames("sparse_images", settings.sparse_images, settings.num_frames)


def _placed(settings: Any, name: str) -> list[tuple[float, Any]]:
    travel, first = getattr(settings, f"{name}_travel"), getattr(settings, name)
    return place_keyframes(f"{name}_travel", travel, settings.num_frames, first)


def input_strength(settings: GenerationSettings) -> float:
    """Tell how much of the way from noise is gone: as set, else what is usual for the kind of input."""
    if settings.strength is not None:
        return settings.strength
    return USUAL_IMAGE_STRENGTH if settings.init_video is None else USUAL_VIDEO_STRENGTH


def made_together(settings: GenerationSettings) -> str:
    """Write down what clips must agree on to be made together: everything but prompts and seeds."""
    return settings.model_dump_json(exclude={"prompt", "negative_prompt", "seed"})


def _check_length(settings: Any, adapter: MotionAdapter) -> None:
    """Refuse windows, or clips without windows, that are too long for the temporal layers."""
    if settings.position_stretch != 1:
        _check_stretch(settings, adapter)
    elif settings.context_length is None:
        adapter.check_num_frames(context_windows(settings).longest)
    elif min(settings.context_length, settings.num_frames) > adapter.max_num_frames:
        raise ValueError(
            f"context_length is {settings.context_length} but this motion adapter knows "
            f"{adapter.max_num_frames} positions; set it to {adapter.max_num_frames} or less"
        )


def _check_stretch(settings: Any, adapter: MotionAdapter) -> None:
    """Refuse passes whose last frame lies behind the last row of the stretched position table."""
    known, longest = adapter.max_num_frames, context_windows(settings).longest
    most = int((known - 1) * settings.position_stretch + 1e-9) + 1
    if longest > most:
        name = "num_frames" if settings.context_length is None else "context_length"
        raise ValueError(
            f"{name} is {longest} but position_stretch {settings.position_stretch:g} makes {most} frames of "
            f"the {known} positions that this motion adapter knows; set context_length to {most} or less, or "
            f"position_stretch to {math.ceil(1000 * (longest - 1) / max(known - 1, 1)) / 1000:g} or more"
        )


def _check_speed(settings: Any) -> None:
    """Refuse to reuse what a window made on frames that it no longer holds, or what guidance never made."""
    if settings.speed and settings.guidance_interval is not None:
        raise ValueError(
            f"speed is {settings.speed} but guidance_interval is set, and they do not go together; drop one"
        )
    steering = next(
        (name for name in ("controlnet", "sparsectrl") if getattr(settings, name) is not None), None
    )
    if settings.speed and steering is not None:
        raise ValueError(
            f"speed is {settings.speed} but {steering} is set, and they do not go together; drop one"
        )
    windows = context_windows(settings)
    if settings.speed and any(windows.at(step) != windows.at(0) for step in range(1, 4)):
        raise ValueError(
            f"speed is {settings.speed} but context_schedule {settings.context_schedule!r} moves its windows "
            "from step to step; set context_schedule to static, or speed to exact"
        )


def _without_effect(settings: GenerationSettings, resolved: GenerationSettings) -> list[str]:
    """What the user asked for that changes nothing."""
    notes = []
    if _placed(resolved, "prompt")[0][1] != resolved.prompt:
        notes.append("prompt is ignored where prompt_travel says what frame 0 shows; leave one of them out")
    if not has_guidance(resolved) and (settings.negative_prompt or settings.negative_prompt_travel):
        notes.append("negative_prompt is ignored at guidance_scale 1, which switches guidance off")
    alpha_counts = resolved.noise_type in {"mixed", "progressive"} or resolved.noise_video is not None
    if not alpha_counts and settings.noise_alpha not in {None, 1}:
        notes.append(f"noise_alpha is ignored by {resolved.noise_type} noise; set noise_type to mixed")
    return [*notes, *ignored_settings(settings)]
