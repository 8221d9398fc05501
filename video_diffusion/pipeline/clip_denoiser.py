"""How a clip's settings become noise, a denoiser and a run of steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_diffusion.acceleration import (
    FIRST_SHARE,
    FULL_STEP_EVERY,
    FeatureReuse,
    ReusingGuided,
)
from video_diffusion.models import ControlledUNet, FrameControl, VideoUNet
from video_diffusion.pipeline.plan import (
    context_windows,
    has_temporal_guidance,
    numbers_along_frames,
    numbers_along_steps,
)
from video_diffusion.sampling import (
    AlongSteps,
    Anchored,
    Denoiser,
    DenoisingStep,
    Guided,
    GuidedWithin,
    NoiseLevels,
    StepNumbers,
    Windowed,
    WithPicture,
    carry_noise,
    denoise,
    free_init,
    initial_noise,
    likeness,
    low_pass_filter,
    make_scheduler,
    parts_of_conditions,
    shuffle_noise,
    step_noise,
    temporal_guidance,
)
from video_diffusion.settings import CHANGING_NUMBERS, ResolvedSettings
from video_diffusion.shapes import Latents

USUAL_IMAGE_HOLD = 0.8  # with the usual strength, what kept the embedded model's clips from jumping off
FREE_INIT_STEPS = 2**32  # step numbers that no denoising step has


def draw_noise(
    settings: ResolvedSettings,
    seeds: Sequence[int],
    latent_size: tuple[int, int, int],
    moves: Sequence[np.ndarray] | None = None,
) -> Latents:
    """Draw what each video is denoised from."""
    windows = context_windows(settings)
    noise = []
    for seed in seeds:
        own = initial_noise(
            seed, settings.num_frames, *latent_size, settings.noise_type, settings.noise_alpha
        )
        if moves is not None:
            own = carry_noise(own, moves, settings.noise_alpha)
        if settings.freenoise:
            own = shuffle_noise(own, seed, windows.length, windows.length - windows.overlap)
        noise.append(own)
    return torch.stack(noise)


class ClipDenoiser:
    """The denoiser that settings ask for: guidance around windows around the model, known frames held.

    Args:
        video_unet: The model.
        settings: Resolved, of all videos.
        prompt_embeds: Of each video, or of each of its frames.
        negative_embeds: Likewise; None if guidance is off.
        input_latents: Of the picture, video or known frames that the clips start from, if there are some.
        scheduler_config: The model's own.
        controls: What steers the clips frame by frame, if anything does.
        conditions: Further arguments of the model, for guidance's doubled batch where guidance is on.

    Attributes:
        guided: What `denoise` calls.
    """

    def __init__(
        self,
        video_unet: VideoUNet,
        settings: ResolvedSettings,
        prompt_embeds: Tensor,
        negative_embeds: Tensor | None,
        input_latents: Latents | None,
        scheduler_config: Mapping[str, Any],
        controls: Sequence[FrameControl] = (),
        **conditions: Any,
    ) -> None:
        self._windows = windows = context_windows(settings)
        for name in ("motion_scale", "motion_effect"):
            conditions[name] = numbers_along_frames(settings, name)
            conditions[f"{name}_blocks"] = dict(getattr(settings, f"{name}_blocks"))
        conditions["position_stretch"] = settings.position_stretch
        changing = _over_steps(settings, scheduler_config)
        self._windowed: Windowed | None = None
        model: Any = video_unet
        if controls:
            model = ControlledUNet(video_unet, controls)
            conditions["frame_numbers"] = torch.arange(settings.num_frames)
        if settings.freenoise:
            conditions["frame_windows"] = [(window, windows.weights(window)) for window in windows.at(0)]
        else:
            model = self._windowed = Windowed(model, windows)
        if video_unet.motion_adapter.conv_in is not None:
            model = _with_picture(model, input_latents, settings)
        guidance_scale = changing.pop("guidance_scale", numbers_along_frames(settings, "guidance_scale"))
        if changing:
            model = AlongSteps(model, changing)
        weaker = [temporal_guidance(settings.temporal_guidance)] if has_temporal_guidance(settings) else []
        ask = (model, prompt_embeds, negative_embeds, guidance_scale, weaker)
        self._reuse: FeatureReuse | None = None
        self.guided: Denoiser
        if settings.speed:
            # Heun asks twice per step.
            num_calls = settings.num_inference_steps * (2 if settings.scheduler == "heun" else 1)
            self._reuse = FeatureReuse(video_unet)
            every, num_first = FULL_STEP_EVERY[settings.speed], math.ceil(FIRST_SHARE * num_calls)
            self.guided = ReusingGuided(self._reuse, every, num_first, *ask, **conditions)
        else:
            self.guided = Guided(*ask, **conditions)
        if settings.guidance_interval is not None and (negative_embeds is not None or weaker):
            num_parts = 1 if negative_embeds is None else 2
            own: dict[str, Any] = parts_of_conditions(conditions, num_parts, [num_parts - 1])
            prompted = Guided(model, prompt_embeds, None, 1.0, **own)
            num_timesteps = scheduler_config.get("num_train_timesteps", 1000)
            self.guided = GuidedWithin(self.guided, prompted, settings.guidance_interval, num_timesteps)
        if settings.init_image is not None and video_unet.motion_adapter.conv_in is None:
            assert input_latents is not None
            hold = USUAL_IMAGE_HOLD if settings.image_hold is None else settings.image_hold
            weights = hold ** torch.arange(settings.num_frames, dtype=torch.float64)
            self.guided = Anchored(self.guided, input_latents, weights, NoiseLevels(scheduler_config))
        if settings.extend is not None:
            assert input_latents is not None
            held_frames = (torch.arange(settings.num_frames) < settings.extend_overlap).double()
            self.guided = Anchored(self.guided, input_latents, held_frames, NoiseLevels(scheduler_config))

    def close(self) -> None:
        """Take off what a speed level put on the model."""
        if self._reuse is not None:
            self._reuse.detach()

    @property
    def window_starts(self) -> tuple[int, ...]:
        """First frames of the windows of the last step; none if the clip was one window."""
        starts = self._windows.starts(0) if self._windowed is None else self._windowed.window_starts
        return starts if len(starts) > 1 else ()


def _with_picture(model: Any, input_latents: Latents | None, settings: ResolvedSettings) -> WithPicture:
    """Let a PIA model see the picture that it animates; of a clip that goes on, the last frame there."""
    assert input_latents is not None  # `plan` has seen to it
    alike = likeness(settings.num_frames, settings.image_hold)
    if settings.extend is None:
        return WithPicture(model, input_latents, alike)
    held = settings.extend_overlap
    alike = torch.cat([alike[:1].expand(held - 1), alike[: settings.num_frames - held + 1]])
    return WithPicture(model, input_latents[:, :, held - 1 : held].expand_as(input_latents), alike)


def _over_steps(settings: ResolvedSettings, scheduler_config: Mapping[str, Any]) -> dict[str, StepNumbers]:
    """The numbers that change over the steps of a run, by name."""
    scheduler = make_scheduler(settings.scheduler, scheduler_config)
    lists = {name: numbers_along_steps(settings, name) for name in CHANGING_NUMBERS}
    return {
        name: StepNumbers(scheduler, numbers, *settings.run)
        for name, numbers in lists.items()
        if numbers is not None
    }


def sample(
    denoiser: Denoiser,
    settings: ResolvedSettings,
    noise: Latents,
    seeds: Sequence[int],
    input_latents: Latents | None,
    scheduler_config: Mapping[str, Any],
) -> Iterator[DenoisingStep]:
    """Denoise as settings ask for it, yielding after every step."""
    scheduler = make_scheduler(settings.scheduler, scheduler_config)

    def run(start: Latents) -> Iterator[DenoisingStep]:
        return denoise(
            denoiser,
            scheduler,
            start,
            settings.num_inference_steps,
            seeds,
            input_latents,
            settings.input_strength,
            settings.enforce_steps,
        )

    if settings.freeinit < 2:
        return run(noise)

    def fresh_noise(iteration: int) -> Latents:
        _, channels, frames, height, width = noise.shape
        size = {"num_frames": frames, "num_channels": channels, "height": height, "width": width}
        return torch.stack([step_noise(seed, FREE_INIT_STEPS + iteration, **size) for seed in seeds])

    low_pass = low_pass_filter(
        noise.shape[2],
        noise.shape[3],
        noise.shape[4],
        settings.freeinit_filter,
        settings.freeinit_spatial_cutoff,
        settings.freeinit_temporal_cutoff,
    )
    levels = NoiseLevels(scheduler_config)
    return free_init(run, noise, fresh_noise, low_pass, levels.last_alphas_cumprod, settings.freeinit)
