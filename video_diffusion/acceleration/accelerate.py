"""Make a video U-Net fast without touching its code or its weights; take everything off again."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from video_diffusion.acceleration import kernels
from video_diffusion.acceleration.compiling import compiled, compiles
from video_diffusion.models import VideoUNet
from video_diffusion.models.base_changes import is_plain_resnet
from video_diffusion.models.temporal import TemporalTransformer

CACHEABLE_PROMPTS = {None, "text_proj"}
"""Ways of a U-Net to prepare prompts that look at nothing but the prompt (`encoder_hid_dim_type`).

An IP-Adapter's is none: diffusers' own processor attends there. To keep its prompts' projections would save
0.4% of SD 1.5's operations at 512x512, and 1.6% at 256x256 (counted).
"""


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
        self._swaps = kernels.Swaps()
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
            if kernels.fits(module):
                self._swaps.put(module, "processor", once_per_prompt)
            elif isinstance(module, TemporalTransformer):
                whole = compiling and compiles(module)
                self._swaps.put_forward(
                    module, kernels.compiled_temporal_forward if whole else kernels.temporal_forward
                )
            elif is_plain_resnet(module):
                self._put(module, kernels.resnet_forward, compiling)
            elif kernels.feed_forward_fits(module):
                # A temporal layer's is compiled with the block that it is in.
                self._put(module, kernels.feed_forward, compiling and kernels.is_spatial(module))
            elif kernels.gated_gelu_fits(module):
                self._swaps.put_forward(module, kernels.gated_gelu)
            elif kernels.convolution_fits(module):
                self._swaps.put_forward(module, kernels.convolution_forward)
            elif type(module) is nn.Linear:
                self._swaps.put_forward(module, kernels.linear_forward)

    def _put(self, module: nn.Module, forward: Callable[..., Any], compiling: bool) -> None:
        self._swaps.put_forward(module, compiled(forward) if compiling and compiles(module) else forward)

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

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("latents", "timestep", "prompt_embeds"), args, strict=False)) | kwargs
        latents, prompt_embeds = given.get("latents"), given.get("prompt_embeds")
        if isinstance(latents, Tensor) and latents.ndim == 5 and isinstance(prompt_embeds, Tensor):
            self.prompt_cache.enter(prompt_embeds, latents.shape[2])

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.prompt_cache.leave()


def accelerate_unet(
    video_unet: VideoUNet, reuse_prompts: bool = True, compiling: bool = False
) -> Acceleration:
    """Accelerate a video U-Net until `detach()`, or for the length of a `with` block; see `Acceleration`."""
    return Acceleration(video_unet, reuse_prompts, compiling)
