"""Deep features of the U-Net, kept from one step and reused in the next ones.

From step to step the inside of a U-Net changes slowly (DeepCache, Ma et al. 2023). Here most
of it is skipped on some steps: only the first convolution, the last layer and the last convolution run, on
what the last two full steps say the rest would have made, drawn on in a straight line.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from video_diffusion.acceleration.swaps import Swaps
from video_diffusion.models import VideoUNet


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

    def _begin_pass(self, module: nn.Module, inputs: Any) -> None:
        self._pass += 1

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._shallow or self._pass < 0:
            return
        while len(self._lines) <= self._pass:
            self._lines.append(Line())
        self._lines[self._pass].add(self._timestep, inputs[0][:, : -self._skip_channels])

    def _run_down_block(self, block: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Any:
        if not self._shallow:
            return type(block).forward(block, hidden_states, *args, **more)
        num_outputs = len(block.resnets) + len(block.downsamplers or ())
        return hidden_states, (hidden_states,) * num_outputs  # nobody will look at them

    def _run_inner_block(self, block: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Any:
        return hidden_states if self._shallow else type(block).forward(block, hidden_states, *args, **more)

    def _run_last_block(
        self,
        block: Any,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor,
        encoder_hidden_states: Any = None,  # with an IP-Adapter prompts and pictures
        **more: Any,
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
