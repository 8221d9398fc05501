"""Input channels beyond the image U-Net's own, as PIA adapters bring them: a mask, and an image's latents."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle


def take_extra_channels(unet: Any, conv_in: nn.Conv2d, is_video: Callable[[], bool]) -> list[RemovableHandle]:
    """Let the U-Net's first convolution take more channels, without editing it.

    A convolution is linear, so it is the U-Net's own on its own channels plus the adapter's on the others.
    The adapter's weights for the first channels, and its bias, are not used: the image model's stand, so that
    any image model fits (as diffusers does for PIA).

    Args:
        unet: A `UNet2DConditionModel`; it is what it was when the handles are removed.
        conv_in: The adapter's convolution over all channels.
        is_video: Whether the running pass is one of videos; others go through untouched.

    Returns:
        Handles that take it off again.

    Raises:
        ValueError: The adapter's convolution is not made for this U-Net.
    """
    own = unet.conv_in.in_channels
    if conv_in.in_channels <= own or conv_in.weight.shape[2:] != unet.conv_in.weight.shape[2:]:
        raise ValueError(
            f"motion_adapter has a first convolution of {conv_in.in_channels} channels, but this U-Net takes "
            f"{own}; use a PIA adapter with a U-Net that was not made for inpainting"
        )
    extra: list[Tensor] = []

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        if not is_video():
            return None
        (channels,) = inputs
        if channels.shape[1] != conv_in.in_channels:
            raise ValueError(
                f"latents must have {conv_in.in_channels} channels with this motion adapter, but have "
                f"{channels.shape[1]}; append the mask and the image's latents"
            )
        extra[:] = [channels[:, own:]]
        return channels[:, :own]

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not is_video():
            return None
        weight = conv_in.weight[:, own:]
        return output + functional.conv2d(extra.pop(), weight, padding=unet.conv_in.padding)

    return [unet.conv_in.register_forward_pre_hook(before), unet.conv_in.register_forward_hook(after)]
