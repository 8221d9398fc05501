"""Context windows around a model: it sees a long clip a few frames at a time, and its answers are blended."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from video_diffusion.sampling.denoiser import PromptedModel, Timestep
from video_diffusion.sampling.windows import ContextWindows
from video_diffusion.shapes import Latents, PromptEmbeds

PER_FRAME_CONDITIONS = ("motion_scale", "motion_effect", "frame_numbers")
"""Conditions of a model that a tensor gives frame by frame."""


class Windowed:
    """A model asked window by window, whose predictions are averaged by weight where windows overlap.

    Each window is a clip of its own to the model: its frames are numbered from 0. Memory is that of one
    window, latents aside. Windows lie inside guidance, so that each gets a prompt and a negative prompt; both
    are averaged alike, which gives the same as averaging guided predictions.

    Windows move on when the timestep changes. One instance serves one run.

    Args:
        model: What is asked for each window.
        windows: How the clip is divided.
    """

    def __init__(self, model: PromptedModel, windows: ContextWindows) -> None:
        self.model = model
        self.windows = windows
        self._step = -1
        self._timestep: float | None = None

    @property
    def window_starts(self) -> tuple[int, ...]:
        """First frames of the windows of the step that was done last, which decides what joints look like."""
        return self.windows.starts(max(self._step, 0))

    def __call__(
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: Any
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict for all frames.

        Args:
            latents: Noisy latents.
            timestep: One for all videos.
            prompt_embeds: Of each video, or of each of its frames.
            conditions: Further ones of the model; those of `PER_FRAME_CONDITIONS` may hold one per frame,
                `added_cond_kwargs` one for each frame of each video, folded.
        """
        if float(timestep) != self._timestep:
            self._step, self._timestep = self._step + 1, float(timestep)
        windows = self.windows.at(self._step)
        if len(windows) == 1 and windows[0] == tuple(range(latents.shape[2])):
            return self.model(latents, timestep, prompt_embeds, **conditions)
        num_videos, _, num_frames, _, _ = latents.shape
        total: Tensor | None = None
        counts = torch.zeros(latents.shape[2], 1, 1, dtype=torch.float64)  # which Apple's GPUs do not know
        for window in windows:
            rows = torch.tensor(window, device=latents.device)
            prediction = self.model(
                latents[:, :, rows],
                timestep,
                prompt_embeds[:, rows] if prompt_embeds.ndim == 4 else prompt_embeds,
                **{
                    name: _of_frames(name, value, rows, (num_videos, num_frames))
                    for name, value in conditions.items()
                },
            )
            precision = torch.promote_types(torch.float32, prediction.dtype)
            if total is None:
                shape = (*prediction.shape[:2], latents.shape[2], *prediction.shape[3:])
                total = torch.zeros(shape, dtype=precision, device=prediction.device)
            weights = torch.tensor(self.windows.weights(window), dtype=torch.float64)[:, None, None]
            total[:, :, rows] += prediction * weights.to(precision).to(prediction.device)
            counts[list(window)] += weights
        assert total is not None  # every frame is in a window
        return (total / counts.to(total.dtype).to(total.device)).to(latents.dtype)


def _of_frames(name: str, value: Any, rows: Tensor, shape: tuple[int, int]) -> Any:
    if name == "added_cond_kwargs" and isinstance(value, Mapping):
        return {key: _of_folded(entry, rows, shape) for key, entry in value.items()}
    return (
        value[rows.to(value.device)] if name in PER_FRAME_CONDITIONS and isinstance(value, Tensor) else value
    )


def _of_folded(value: Any, rows: Tensor, shape: tuple[int, int]) -> Any:
    """The window's part of what holds an item for each frame of each video; lists go entry by entry."""
    if isinstance(value, list | tuple):
        return [_of_folded(entry, rows, shape) for entry in value]
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != shape[0] * shape[1]:
        return value
    by_video = rearrange(value, "(b f) ... -> b f ...", f=shape[1])
    return rearrange(by_video[:, rows.to(value.device)], "b f ... -> (b f) ...")
