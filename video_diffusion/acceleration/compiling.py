"""PyTorch's compiler on the parts that every layer repeats, where there is one that works.

Whole models take minutes to compile, and again for every size of clip. Here each kind of part is compiled
once for each of its shapes: resnets, blocks of temporal layers and feed-forward layers. They hold what a
compiler can fuse (norms, activations, sums); what is left are matrix products and attention, and the choice
of prompts, which is no arithmetic. PyTorch keeps compiled code on disk, so the next run finds it.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

MAX_SHAPES = 64
"""Shapes of one kind of part that are compiled; a Stable Diffusion U-Net has about twenty of resnets."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let PyTorch compile a function for each shape that it is called with, when it first is."""
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MAX_SHAPES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's compiler about itself, as it is imported
        fast = torch.compile(function, dynamic=False)

    def run(module: Any, *args: Any, **more: Any) -> Any:
        forward = type(module).forward if torch.is_grad_enabled() else fast
        return forward(module, *args, **more)

    return run


def compiles(module: nn.Module) -> bool:
    """Whether a part is made of plain layers: hooks and LoRAs look at what no compiled code can know."""
    return all(
        not part._forward_hooks
        and not part._forward_pre_hooks
        and not type(part).__module__.startswith("peft.")
        for name, part in module.named_modules()
        if name  # the part's own hooks run around it
    )


@cache
def compiler_problem(device_type: str) -> str | None:
    """Say why nothing can be compiled for a kind of device, such as "cuda"; None if it can.

    A small layer is compiled and run: a C++ compiler, Triton or headers may be missing, or what they make may
    not run here.
    """
    layer = nn.ReLU()
    numbers = torch.tensor([-1.0, 2.0], device=device_type)
    try:
        with torch.no_grad():
            found = compiled(_trial)(layer, numbers)
    except Exception as error:  # whatever is missing, deep inside the compiler
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None if found.tolist() == [1.0, 3.0] else "what it makes computes wrong numbers"


def _trial(layer: nn.ReLU, numbers: torch.Tensor) -> torch.Tensor:
    return layer(numbers) + 1
