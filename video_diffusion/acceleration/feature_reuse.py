"""Feature caching (DeepCache, Ma et al. 2023) with extrapolation, and guidance that asks for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from video_diffusion.acceleration.accelerate import Swaps
from video_diffusion.models import VideoUNet
from video_diffusion.models.motion_adapter import UNetBlock
from video_diffusion.sampling import Guided, PromptedModel, StepNumbers, Weaker
from video_diffusion.sampling.denoisers import Timestep
from video_diffusion.shapes import FrameNumbers, Latents, PromptEmbeds


@dataclass
class Line:
    """A tensor as it was at the last two timesteps that asked for it, and the straight line through both."""

    points: list[tuple[float, Tensor]] = field(default_factory=list)

    def add(self, timestep: float, value: Tensor) -> None:
        """Note a value; the one before the last is forgotten."""
        self.points = [*self.points[-1:], (timestep, value)]

    def at(self, timestep: float) -> Tensor:
        """The value to be expected; the last one while there is no other to draw a line through."""
        last_timestep, last = self.points[-1]
        first_timestep, first = self.points[0]
        if first_timestep == last_timestep:
            return last
        place = (timestep - first_timestep) / (last_timestep - first_timestep)
        return torch.lerp(first.float(), last.float(), place).to(last.dtype)


class FeatureReuse:
    """Skips the deep part of a video U-Net's passes when told to.

    The image U-Net's own forward still runs. In a shallow pass its blocks hand on what they got, and the last
    block runs its last layer alone, on the features that went into it in the last full passes.

    Passes are told apart by their order within a step, so that each context window has features of its own.

    Args:
        video_unet: Any; it is as before after `detach()`.

    Raises:
        ValueError: It runs videos one by one, so that a shallow step would not find its features.
    """

    def __init__(self, video_unet: VideoUNet) -> None:
        if video_unet.one_by_one:
            raise ValueError(
                "low_memory is set but speed is not exact, and they do not go together; drop one"
            )
        unet = video_unet.unet
        self._lines: list[Line] = []
        self._pass = -1
        self._timestep = 0.0
        self._shallow = False
        self._skip_channels = int(unet.conv_in.out_channels)
        self._swaps = Swaps()
        for block in unet.down_blocks:
            self._swaps.put_forward(block, self._run_down_block)
        if unet.mid_block is not None:
            self._swaps.put_forward(unet.mid_block, self._run_inner_block)
        for block in unet.up_blocks[:-1]:
            self._swaps.put_forward(block, self._run_inner_block)
        self._swaps.put_forward(unet.up_blocks[-1], self._run_last_block)
        self._handles: list[RemovableHandle] = [
            unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(self._keep),
            video_unet.register_forward_pre_hook(self._begin_pass),
        ]

    def detach(self) -> None:
        """Leave the model as it was found and forget all features."""
        self._swaps.undo()
        for handle in self._handles:
            handle.remove()
        self._handles, self._lines = [], []

    def forget(self) -> None:
        """Begin a new run: features of another one say nothing."""
        self._lines = []

    @contextmanager
    def full_step(self, timestep: float) -> Iterator[None]:
        """Passes within are whole, and their deep features are kept."""
        self._pass, self._timestep, self._shallow = -1, timestep, False
        yield

    @contextmanager
    def shallow_step(self, timestep: float) -> Iterator[None]:
        """Passes within run the outermost layer alone; their batch may be the last part of the full one."""
        self._pass, self._timestep, self._shallow = -1, timestep, True
        try:
            yield
        finally:
            self._shallow = False

    def _begin_pass(self, module: nn.Module, inputs: object) -> None:
        self._pass += 1

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._shallow or self._pass < 0:
            return
        while len(self._lines) <= self._pass:
            self._lines.append(Line())
        self._lines[self._pass].add(self._timestep, inputs[0][:, : -self._skip_channels])

    def _run_down_block(
        self, block: UNetBlock, hidden_states: Tensor, *args: object, **more: object
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self._shallow:
            return type(block).forward(block, hidden_states, *args, **more)
        num_outputs = len(block.resnets) + len(block.downsamplers or ())
        return hidden_states, (hidden_states,) * num_outputs  # nobody will look at them

    def _run_inner_block(
        self, block: UNetBlock, hidden_states: Tensor, *args: object, **more: object
    ) -> Tensor:
        return hidden_states if self._shallow else type(block).forward(block, hidden_states, *args, **more)

    def _run_last_block(
        self,
        block: UNetBlock,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor,
        # with an IP-Adapter, prompts and images
        encoder_hidden_states: Tensor | tuple[Tensor, list[Tensor]] | None = None,
        **more: object,
    ) -> Tensor:
        if not self._shallow:
            prompt = {} if encoder_hidden_states is None else {"encoder_hidden_states": encoder_hidden_states}
            return type(block).forward(block, hidden_states, res_hidden_states_tuple, temb, **prompt, **more)
        first = res_hidden_states_tuple[0]  # of the first convolution
        deep = self._lines[self._pass].at(self._timestep)[-len(first) :]
        hidden_states = block.resnets[-1](torch.cat([deep, first], dim=1), temb)
        if getattr(block, "attentions", None):
            more.pop("upsample_size", None)
            (hidden_states,) = block.attentions[-1](
                hidden_states, encoder_hidden_states=encoder_hidden_states, return_dict=False, **more
            )
        return hidden_states


# Guidance that asks the whole model only every few steps.


FIRST_SHARE = 0.25
"""Share of a run's steps, the first ones, that are full at every speed."""

FULL_STEP_EVERY: Mapping[int, int] = {0: 1, 1: 2, 2: 3, 3: 4}
"""Of each speed level: every how many steps the whole model runs."""


class ReusingGuided(Guided):
    """Guidance that runs the whole model on some steps, and its outermost layer alone on the others.

    On the steps between, the prompt's own prediction comes from a shallow pass, and what guidance adds to it
    is drawn on from the last two full steps: negative + scale · (prompt - negative) is the prompt's plus
    (scale - 1) times their difference, and weaker answers are differences too. Such a step costs a few
    hundredths of a full one. Approximate: docs/benchmarks.md says how far clips drift.

    Args:
        reuse: Of the model that is asked.
        every: A full step every so many; 1 is exact.
        num_first: Steps at the start of a run that are full: they decide what the clip shows.
        model, prompt_embeds, negative_prompt_embeds, guidance_scale, weaker, conditions: Of `Guided`.
    """

    def __init__(
        self,
        reuse: FeatureReuse,
        every: int,
        num_first: int,
        model: PromptedModel,
        prompt_embeds: PromptEmbeds,
        negative_prompt_embeds: Tensor | None,
        guidance_scale: FrameNumbers | StepNumbers,
        weaker: Sequence[Weaker] = (),
        **conditions: object,
    ) -> None:
        super().__init__(model, prompt_embeds, negative_prompt_embeds, guidance_scale, weaker, **conditions)
        self.reuse = reuse
        self.every = every
        self.num_first = max(num_first, 1)
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self._num_calls = 0
        self._timestep = 0.0
        self._difference = Line()
        self._ahead = [Line() for _ in self.weaker]
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
        with self.reuse.full_step(now):
            *weaker, prompted = self.ask(latents, timestep)
        negative = None if self.is_off else weaker.pop()
        if negative is not None:
            self._difference.add(now, prompted - negative)
        ahead = [prompted - answer for answer in weaker]
        for line, difference in zip(self._ahead, ahead, strict=True):
            line.add(now, difference)
        return self.combine(timestep, prompted, negative, ahead)

    def _shallow(self, latents: Latents, timestep: Timestep, now: float) -> Latents:
        prompts = self.prompt_embeds[-self.num_videos :]
        with self.reuse.shallow_step(now):
            inputs = latents.to(prompts.dtype)
            prompted = self.model(inputs, timestep, prompts, **self.prompt_conditions).to(latents.dtype)
        noise_pred = prompted
        if not self.is_off:
            noise_pred = prompted + (self._scale(timestep, latents) - 1) * self._difference.at(now)
        for answer, line in zip(self.weaker, self._ahead, strict=True):
            noise_pred = noise_pred + answer.scale * line.at(now)
        return noise_pred
