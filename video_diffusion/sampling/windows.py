"""Context windows: a long clip is denoised a few frames at a time, and the predictions are blended."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from video_diffusion.sampling.denoisers import PromptedModel, Timestep
from video_diffusion.settings import ContextFuse, ContextSchedule
from video_diffusion.shapes import Latents, PromptEmbeds

Window: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ContextWindows:
    """How a clip is divided into windows that the model can take in one pass.

    Attributes:
        num_frames: Of the clip.
        length: Frames of one window; a clip that is no longer is one window.
        overlap: Frames that neighbouring windows share, below `length`; "batched" has none.
        stride: Levels of dilated windows: 1 takes neighbouring frames only, 2 adds windows of every second
            frame, 3 of every fourth, as far as such a window fits into the clip.
        schedule: "uniform" moves all windows a little from step to step, so that their joints fall elsewhere;
            "uniform_looped" does so around a clip whose end meets its beginning; "static" leaves them where
            they are; "even" too, as few as can be, all alike, with the overlap or one frame less; "batched"
            puts them side by side.
        fuse: How frames count where windows overlap: "pyramid" most in the middle of a window, "flat" all
            alike, "linear" falling along the overlap.

    >>> ContextWindows(num_frames=10, length=4, overlap=1, schedule="static").at(0)
    ((0, 1, 2, 3), (3, 4, 5, 6), (6, 7, 8, 9))
    """

    num_frames: int
    length: int
    overlap: int
    stride: int = 1
    schedule: ContextSchedule = "uniform"
    fuse: ContextFuse = "pyramid"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.length:
            raise ValueError(
                f"context_overlap must lie in 0…{self.length - 1}, below context_length {self.length}, "
                f"but is {self.overlap}; a quarter of the length is usual"
            )

    @property
    def longest(self) -> int:
        """Frames of the longest window."""
        return min(self.num_frames, self.length)

    def at(self, step: int) -> tuple[Window, ...]:
        """List the windows of a denoising step, each frame in at least one of those of neighbouring frames.

        Close to AnimateDiff's command lines and ComfyUI nodes, with these differences: dilated windows never
        hold a frame twice, the windows of "uniform" keep one distance instead of being cut at the clip's end
        and patched at its start, and "batched" divides evenly instead of leaving a short rest.

        Args:
            step: Counts from 0.
        """
        if self.num_frames <= self.length:
            turn = round(self.num_frames * van_der_corput(step)) if self.schedule == "uniform_looped" else 0
            return (tuple((turn + k) % self.num_frames for k in range(self.num_frames)),)
        if self.schedule == "batched":
            count = -(-self.num_frames // self.length)
            edges = [self.num_frames * part // count for part in range(count + 1)]
            return tuple(tuple(range(a, b)) for a, b in pairwise(edges))
        windows: list[Window] = []
        for level in range(self.stride):
            dilation = 2**level
            if (self.length - 1) * dilation >= self.num_frames:
                break
            windows += [
                tuple((start + k * dilation) % self.num_frames for k in range(self.length))
                for start in self._starts(dilation, step)
            ]
        return tuple(windows)

    def starts(self, step: int) -> tuple[int, ...]:
        """First frames of the step's windows of neighbouring frames, in order: where a joint may show."""
        windows = self.at(step)
        return tuple(sorted({w[0] for w in windows if len(w) == 1 or w[1] == (w[0] + 1) % self.num_frames}))

    def weights(self, window: Window) -> tuple[float, ...]:
        """Tell how much each frame of a window counts against the same frame in others; above 0."""
        size = len(window)
        if self.fuse == "flat":
            return (1.0,) * size
        if self.fuse == "pyramid":
            return tuple(float(min(k + 1, size - k)) for k in range(size))
        looped = self.schedule == "uniform_looped"
        at_start = not looped and window[0] == 0
        at_end = not looped and window[-1] == self.num_frames - 1
        return tuple(
            min(
                1.0,
                1.0 if at_start else (k + 1) / (self.overlap + 1),
                1.0 if at_end else (size - k) / (self.overlap + 1),
            )
            for k in range(size)
        )

    def _starts(self, dilation: int, step: int) -> list[int]:
        """Where the windows of one dilation begin: as far apart as the overlap allows."""
        distance = self.length * dilation - self.overlap
        if self.schedule == "uniform_looped":
            turn = round(self.num_frames * van_der_corput(step))
            return [start % self.num_frames for start in range(turn, self.num_frames + turn, distance)]
        last = self.num_frames - 1 - (self.length - 1) * dilation
        if self.schedule == "even":
            widest = distance + min(self.overlap, 1)  # one frame less may be shared
            gaps = max(1, -(-last // widest))
            return sorted({last * gap // gaps for gap in range(gaps + 1)})
        shift = round(distance * van_der_corput(step)) % distance if self.schedule == "uniform" else 0
        starts = [0, *range(shift, last, distance), last]
        return sorted(set(starts))


def van_der_corput(step: int) -> float:
    """Reverse the bits of a number behind the point: 0, 1/2, 1/4, 3/4, 1/8, … evenly spread at any length."""
    value, weight = 0.0, 0.5
    while step:
        value += weight * (step & 1)
        step, weight = step >> 1, weight / 2
    return value


# Context windows around a model: it sees a long clip a few frames at a time, and its answers are blended.


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
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: object
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict for all frames."""
        if float(timestep) != self._timestep:
            self._step, self._timestep = self._step + 1, float(timestep)
        windows = self.windows.at(self._step)
        if len(windows) == 1 and windows[0] == tuple(range(latents.shape[2])):
            return self.model(latents, timestep, prompt_embeds, **conditions)
        total: Tensor | None = None
        counts = torch.zeros(latents.shape[2], 1, 1, dtype=torch.float64)  # which Apple's GPUs do not know
        for window in windows:
            rows = torch.tensor(window, device=latents.device)
            noise_pred = self.model(
                latents[:, :, rows],
                timestep,
                prompt_embeds[:, rows] if prompt_embeds.ndim == 4 else prompt_embeds,
                **conditions_of_frames(conditions, rows, latents.shape),
            )
            precision = torch.promote_types(torch.float32, noise_pred.dtype)
            if total is None:
                shape = (*noise_pred.shape[:2], latents.shape[2], *noise_pred.shape[3:])
                total = torch.zeros(shape, dtype=precision, device=noise_pred.device)
            weights = torch.tensor(self.windows.weights(window), dtype=torch.float64)[:, None, None]
            total[:, :, rows] += noise_pred * weights.to(precision).to(noise_pred.device)
            counts[list(window)] += weights
        assert total is not None  # every frame is in a window
        return (total / counts.to(total.dtype).to(total.device)).to(latents.dtype)


def conditions_of_frames(
    conditions: Mapping[str, object], rows: Int[Tensor, " frames"], shape: torch.Size
) -> dict[str, object]:
    """Take the part of a model's conditions that belongs to some frames of latents of a shape."""
    num_videos, _, num_frames, _, _ = shape

    def of_folded(value: object) -> object:
        """What holds an item for each frame of each video; lists go entry by entry."""
        if isinstance(value, list | tuple):
            return [of_folded(entry) for entry in value]
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != num_videos * num_frames:
            return value
        by_video = rearrange(value, "(b f) ... -> b f ...", f=num_frames)
        return rearrange(by_video[:, rows.to(value.device)], "b f ... -> (b f) ...")

    taken = dict(conditions)
    for name, value in conditions.items():
        if name in PER_FRAME_CONDITIONS and isinstance(value, Tensor):
            taken[name] = value[rows.to(value.device)]
        elif name == "added_cond_kwargs" and isinstance(value, Mapping):
            taken[name] = {key: of_folded(entry) for key, entry in value.items()}
    return taken
