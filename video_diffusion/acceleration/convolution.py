"""Convolutions of small feature maps as one matrix product, on weights as they lie.

On CPUs oneDNN lays the weights of a convolution out anew in every call. Deep in a U-Net, where a map has a
few pixels and thousands of channels, that takes several times as long as the arithmetic. Written out as rows,
one for each pixel with all that its kernel sees, the map is small, and its product with the weights needs no
other layout.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from video_diffusion.acceleration.linear import linear_map

MAX_PIXELS_PER_CHANNEL = 0.5
"""Pixels, of all pictures, for each output channel, up to which the product is the faster one.

Rows to write out grow with pixels, weights to lay out with output channels. On an Intel Xeon with AMX, while
others used it too, the product is 1.3 to 9 times as fast at 0.05 to 0.2, 1.4 times at 0.8 in bfloat16, and
slower from 1.6 on.
"""


def convolution_forward(
    module: nn.Conv2d, pictures: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c_out h_out w_out"]:
    """What `nn.Conv2d.forward` computes, for layers that `convolution_fits` approves."""
    padding: Any = module.padding
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    height, width = (
        (side + 2 * pad - dilate * (size - 1) - 1) // step + 1
        for side, pad, dilate, size, step in zip(
            pictures.shape[-2:], padding, dilation, kernel, stride, strict=True
        )
    )
    num_pixels = len(pictures) * height * width
    if (
        torch.is_grad_enabled()
        or pictures.device.type != "cpu"
        or num_pixels > MAX_PIXELS_PER_CHANNEL * module.out_channels
    ):
        return type(module).forward(module, pictures)
    rows = functional.unfold(pictures, kernel, dilation, padding, stride).transpose(1, 2)
    convolved = linear_map(rows, module.weight.flatten(1), module.bias)
    return convolved.transpose(1, 2).reshape(len(pictures), -1, height, width).contiguous()


def convolution_fits(module: nn.Module) -> bool:
    """Whether a module is a plain convolution: one group, and zeros around the picture."""
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )
