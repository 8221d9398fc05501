"""The image U-Net's resnet norms pooled over a clip's frames, as AnimateDiff's first version was trained.

Its code gave video tensors to norms made for pictures, so that each averaged over all frames. diffusers
computes them frame by frame, with these weights too.
"""

from collections.abc import Callable, Iterator
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

NumFrames = Callable[[], int | None]


def pool_resnet_norms(unet: Any, num_frames: NumFrames) -> list[RemovableHandle]:
    """Make every norm of the U-Net's resnets, and its last one, average over the frames of each video.

    Args:
        unet: A `UNet2DConditionModel`; it is what it was when the handles are removed.
        num_frames: Tells the frames of a video in the running pass; None is a pass of pictures.

    Returns:
        Handles that take it off again.
    """

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        count = num_frames()
        return None if count is None else rearrange(inputs[0], "(b f) c h w -> b c (f h) w", f=count)

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        count = num_frames()
        return None if count is None else rearrange(output, "b c (f h) w -> (b f) c h w", f=count)

    handles = []
    for norm in _resnet_norms(unet):
        handles += [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]
    return handles


def _resnet_norms(unet: Any) -> Iterator[nn.Module]:
    blocks = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
    for block in blocks:
        for resnet in block.resnets:
            yield resnet.norm1
            yield resnet.norm2
    if unet.conv_norm_out is not None:
        yield unet.conv_norm_out
