"""The image U-Net's resnets without steps that change nothing."""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch.nn import functional


def resnet_forward(
    module: ResnetBlock2D, input_tensor: Tensor, temb: Tensor, *args: Any, **more: Any
) -> Tensor:
    """What `ResnetBlock2D.forward` computes for layers that `is_plain_resnet` approves.

    Activations and sums are written over tensors that nobody else holds, and the result is not divided by 1.
    """
    if torch.is_grad_enabled():
        return type(module).forward(module, input_tensor, temb, *args, **more)
    hidden_states = module.conv1(functional.silu(module.norm1(input_tensor), inplace=True))
    hidden_states += module.time_emb_proj(functional.silu(temb))[:, :, None, None]
    hidden_states = module.conv2(functional.silu(module.norm2(hidden_states), inplace=True))
    shortcut = input_tensor if module.conv_shortcut is None else module.conv_shortcut(input_tensor)
    return hidden_states.add_(shortcut)
