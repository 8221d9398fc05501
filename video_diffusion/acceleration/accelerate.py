"""Make a video U-Net fast without touching its code or its weights; take everything off again."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from types import MethodType, TracebackType
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from video_diffusion.acceleration import kernels
from video_diffusion.models import VideoUNet
from video_diffusion.models.base_changes import is_plain_resnet
from video_diffusion.models.temporal import FeedForward, TemporalTransformer

_ABSENT = object()

Forward: TypeAlias = Callable[..., Tensor]
"""Computes what a module does; the module is its first argument."""


class Swaps:
    """Attributes of module instances that were replaced; `undo` leaves every module as it was found.

    Only instances change, never classes: weights, names, hooks and state dicts stay what they are.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, str, object]] = []

    def __len__(self) -> int:
        return len(self._before)

    def put(self, module: nn.Module, name: str, value: object) -> None:
        """Set an attribute of one module, which must not be a parameter, buffer or submodule."""
        own = vars(module)
        self._before.append((module, name, own.get(name, _ABSENT)))
        own[name] = value

    def put_forward(self, module: nn.Module, forward: Callable[..., object]) -> None:
        """Let a module run `forward(module, ...)`; one that runs somebody else's already keeps that."""
        if "forward" not in vars(module):
            self.put(module, "forward", MethodType(forward, module))

    def undo(self) -> None:
        """Put everything back, the last change first."""
        while self._before:
            module, name, value = self._before.pop()
            if value is _ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = value


# PyTorch's compiler on the parts that every layer repeats, where there is one that works.
#
# Whole models take minutes to compile, and again for every size of clip. Here each kind of part is compiled
# once for each of its shapes: resnets, blocks of temporal layers and feed-forward layers. They hold what a
# compiler can fuse (norms, activations, sums); what is left are matrix products and attention, and the choice
# of prompts, which is no arithmetic. PyTorch keeps compiled code on disk, so the next run finds it.


MAX_SHAPES = 64
"""Shapes of one kind of part that are compiled; a Stable Diffusion U-Net has about twenty of resnets."""


@cache
def compiled(function: Forward) -> Forward:
    """Let PyTorch compile a function for each shape that it is called with, when it first is."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_SHAPES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's compiler about itself, as it is imported
        fast = torch.compile(function, dynamic=False)

    def run(module: nn.Module, *args: object, **more: object) -> Tensor:
        forward: Forward = type(module).forward if torch.is_grad_enabled() else fast
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


def _trial(layer: nn.ReLU, numbers: Tensor) -> Tensor:
    return layer(numbers) + 1


# All of it together.


CACHEABLE_PROMPTS = {None, "text_proj"}
"""Ways of a U-Net to prepare prompts that look at nothing but the prompt (`encoder_hid_dim_type`).

An IP-Adapter's is none: diffusers' own processor attends there. To keep its prompts' projections would save
0.4% of SD 1.5's operations at 512x512, and 1.6% at 256x256 (counted).
"""


def _faster_forward(module: nn.Module, compiling: bool) -> Forward | None:
    """What a module may run in place of its own forward; None if it is not of the usual kind."""
    forward: Forward | None = None
    if isinstance(module, TemporalTransformer):
        run_block = compiled(kernels.temporal_block) if compiling else None
        forward = partial(kernels.temporal_forward, run_block=run_block)
    elif is_plain_resnet(module):
        forward = compiled(kernels.resnet_forward) if compiling else kernels.resnet_forward
    elif kernels.feed_forward_fits(module):
        # A temporal layer's is compiled with the block that it is in.
        is_alone = compiling and not isinstance(module, FeedForward)
        forward = compiled(kernels.feed_forward) if is_alone else kernels.feed_forward
    elif kernels.gated_gelu_fits(module):
        forward = kernels.gated_gelu
    elif kernels.convolution_fits(module):
        forward = kernels.convolution_forward
    elif type(module) is nn.Linear:
        forward = kernels.linear_forward
    return forward


class Acceleration:
    """A video U-Net that computes the same numbers in less time, to the rounding of its precision.

    Prompts are projected once per run instead of once per frame and step; frames ask a prompt together;
    temporal attention reads strided views; nothing is divided by 1; linear maps take the faster of PyTorch's
    two kernels, and so do convolutions of few pixels. Modules that are not of the usual kind (a LoRA,
    IP-Adapter, somebody's own processor) stay as they are, and so does everything whenever a gradient is
    asked for.

    Made for one run: its weights must not change in between. Use it as a context manager, or `detach()`.

    Args:
        video_unet: Attached or not; it stays usable as before.
        reuse_prompts: Whether to keep what cross attention makes of prompts.
        compiling: Whether PyTorch compiles resnets, feed-forward layers and blocks of temporal layers, when
            their shapes are first seen; see `compiler_problem`.
    """

    def __init__(self, video_unet: VideoUNet, reuse_prompts: bool = True, compiling: bool = False) -> None:
        self.video_unet = video_unet
        self.prompt_cache = kernels.PromptCache()
        self._swaps = Swaps()
        self._handles: list[RemovableHandle] = []
        config = video_unet.unet.config
        # The attribute, which a loaded IP-Adapter sets; diffusers leaves the configuration's entry as it was.
        known_prompts = reuse_prompts and config.encoder_hid_dim_type in CACHEABLE_PROMPTS
        if known_prompts:
            self._handles = [
                video_unet.register_forward_pre_hook(self._enter, with_kwargs=True),
                video_unet.register_forward_hook(self._leave, always_call=True),
            ]
        once_per_prompt = kernels.OncePerPrompt(self.prompt_cache)
        for module in video_unet.modules():
            if kernels.attention_fits(module):
                self._swaps.put(module, "processor", once_per_prompt)
                continue
            forward = _faster_forward(module, compiling and compiles(module))
            if forward is not None:
                self._swaps.put_forward(module, forward)

    def detach(self) -> VideoUNet:
        """Leave every module as it was found and forget the prompts."""
        self._swaps.undo()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.prompt_cache = kernels.PromptCache()
        return self.video_unet

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def _enter(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given = dict(zip(("latents", "timestep", "prompt_embeds"), args, strict=False)) | kwargs
        latents, prompt_embeds = given.get("latents"), given.get("prompt_embeds")
        if isinstance(latents, Tensor) and latents.ndim == 5 and isinstance(prompt_embeds, Tensor):
            self.prompt_cache.enter(prompt_embeds, latents.shape[2])

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        self.prompt_cache.leave()


def accelerate_unet(
    video_unet: VideoUNet, reuse_prompts: bool = True, compiling: bool = False
) -> Acceleration:
    """Accelerate a video U-Net until `detach()`, or for the length of a `with` block; see `Acceleration`."""
    return Acceleration(video_unet, reuse_prompts, compiling)
