"""Keys and values of prompts, projected once and kept for the steps that follow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

MAX_BYTES = 2**28
"""Kept for all prompts together: SD 1.5's for 16 prompts in float32, or for one window of 16 frames' own."""

KeysAndValues: TypeAlias = tuple[Tensor, Tensor]


@dataclass
class _Prompt:
    """One batch of prompts and what layers made of it."""

    embeds: Tensor
    made: dict[nn.Module, KeysAndValues] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.made.values() for tensor in pair)


class PromptCache:
    """What every cross attention made of the prompts seen last.

    A prompt is known by its values, so it does not matter who cut or copied its embeddings. Weights must not
    change while the cache lives: it is made for one run.

    Attributes:
        num_frames: Frames that share a prompt in the running pass; 1 if each frame has its own, 0 outside a
            pass.
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self._prompts: list[_Prompt] = []  # the last one is that of the running pass

    def enter(self, prompt_embeds: Tensor, num_frames: int) -> None:
        """Begin a pass; `prompt_embeds` holds `b n d` or, with one prompt per frame, `b f n d`."""
        self.num_frames = num_frames if prompt_embeds.ndim == 3 else 1
        for place, known in enumerate(self._prompts):
            if _same(known.embeds, prompt_embeds):
                self._prompts.append(self._prompts.pop(place))
                return
        self._prompts.append(_Prompt(prompt_embeds.detach().clone()))

    def leave(self) -> None:
        """End the pass."""
        self.num_frames = 0
        while len(self._prompts) > 1 and sum(prompt.num_bytes for prompt in self._prompts) > MAX_BYTES:
            del self._prompts[0]

    def keys_and_values(self, layer: nn.Module, make: Callable[[], KeysAndValues]) -> KeysAndValues:
        """What a layer made of the running pass's prompts, made now if it is their first pass."""
        made = self._prompts[-1].made
        if layer not in made:
            made[layer] = make()
        return made[layer]


def _same(known: Tensor, given: Tensor) -> bool:
    def kind(tensor: Tensor) -> Any:
        return tensor.shape, tensor.dtype, tensor.device

    return kind(known) == kind(given) and torch.equal(known, given)
