"""Guidance that asks the whole model only every few steps."""

from collections.abc import Mapping
from typing import Any

import torch

from video_diffusion.acceleration.feature_reuse import FeatureReuse, Line
from video_diffusion.sampling import Guided
from video_diffusion.sampling.denoiser import Timestep
from video_diffusion.shapes import Latents

FIRST_SHARE = 0.25
"""Share of a run's steps, the first ones, that are full at every speed."""

FULL_STEP_EVERY: Mapping[int, int] = {0: 1, 1: 2, 2: 3, 3: 4}
"""Of each speed level: every how many steps the whole model runs."""


class ReusingGuided(Guided):
    """Guidance that runs the whole model on some steps, and its outermost layer alone on the others.

    On the steps between, the prompt's own prediction comes from a shallow pass, and what guidance adds to it
    is drawn on from the last two full steps: negative + scale · (prompt - negative) is the prompt's plus
    (scale - 1) times their difference. Such a step costs a few hundredths of a full one. Approximate:
    docs/benchmarks.md says how far clips drift.

    Args:
        reuse: Of the model that is asked.
        every: A full step every so many; 1 is exact.
        num_first: Steps at the start of a run that are full: they decide what the clip shows.
        guided: Arguments of `Guided`.
        conditions: Likewise.
    """

    def __init__(
        self, reuse: FeatureReuse, every: int, num_first: int, *guided: Any, **conditions: Any
    ) -> None:
        super().__init__(*guided, **conditions)
        self.reuse = reuse
        self.every = every
        self.num_first = max(num_first, 1)
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self._num_calls = 0
        self._timestep = 0.0
        self._difference = Line()
        self.reuse.forget()

    def __call__(self, latents: Latents, timestep: Timestep) -> Latents:
        """Predict, guided."""
        now = float(timestep)
        if now > self._timestep:  # a new run: noise only ever falls within one
            self.begin()
        self._timestep = now
        is_full = self._num_calls < self.num_first or (self._num_calls - self.num_first + 1) % self.every == 0
        self._num_calls += 1
        return self._full(latents, timestep, now) if is_full else self._shallow(latents, timestep, now)

    def _full(self, latents: Latents, timestep: Timestep, now: float) -> Latents:
        inputs = latents.to(self.prompt_embeds.dtype)
        with self.reuse.full_step(now):
            if self.is_off:
                return self._predict(inputs, timestep).to(latents.dtype)
            both = self._predict(torch.cat([inputs, inputs]), timestep).to(latents.dtype)
        negative, prompted = both.chunk(2)
        self._difference.add(now, prompted - negative)
        return negative + self._scale(timestep, latents) * (prompted - negative)

    def _shallow(self, latents: Latents, timestep: Timestep, now: float) -> Latents:
        inputs = latents.to(self.prompt_embeds.dtype)
        prompts = self.prompt_embeds if self.is_off else self.prompt_embeds.chunk(2)[1]
        conditions = self.conditions if self.is_off else prompts_half(self.conditions)
        with self.reuse.shallow_step(now):
            prompted = self.model(inputs, timestep, prompts, **conditions).to(latents.dtype)
        if self.is_off:
            return prompted
        return prompted + (self._scale(timestep, latents) - 1) * self._difference.at(now)


def prompts_half(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The prompts' part of conditions that fit the doubled batch."""
    added = conditions.get("added_cond_kwargs")
    if added is None:
        return dict(conditions)
    return {**conditions, "added_cond_kwargs": {name: _second_half(value) for name, value in added.items()}}


def _second_half(value: Any) -> Any:
    """Of a tensor, or of each tensor of a list (one for each IP-Adapter)."""
    return [_second_half(entry) for entry in value] if isinstance(value, list) else value.chunk(2)[1]
