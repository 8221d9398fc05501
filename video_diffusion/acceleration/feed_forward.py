"""Feed-forward layers a few tokens at a time, with the gate inside the matrix product where oneDNN runs.

A feed-forward layer makes eight numbers of one: at 512x512 pixels and 16 frames its middle is the largest
tensor of the whole U-Net. Tokens do not see each other there, so it never has to exist as a whole.
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward as SpatialFeedForward
from torch import Tensor, nn
from torch.nn import functional

from video_diffusion.acceleration.linear import runs_onednn
from video_diffusion.models.temporal_transformer import FeedForward, GatedGelu

MAX_BYTES = 2**25
"""Of the middle of a feed-forward layer at a time."""


def feed_forward(module: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Tensor:
    """What the two `FeedForward` classes compute, in pieces of whole rows; with a gradient their own."""
    if torch.is_grad_enabled():
        return type(module).forward(module, hidden_states, *args, **more)
    width = module.net[0].proj.out_features
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    num_rows = max(MAX_BYTES // (width * tokens.element_size()), 1)
    pieces = [module.net[2](module.net[0](piece)) for piece in torch.split(tokens, num_rows)]
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return whole.view(*hidden_states.shape[:-1], whole.shape[-1])


def feed_forward_fits(module: Any) -> bool:
    """Whether a module is a feed-forward layer with a GEGLU, the image U-Net's or a temporal layer's."""
    if type(module) is SpatialFeedForward:
        # a dropout may follow, and an activation of another kind may lead
        return len(module.net) == 3 and gated_gelu_fits(module.net[0]) and not module.training
    return type(module) is FeedForward


def is_spatial(module: Any) -> bool:
    """Whether a feed-forward layer is the image U-Net's."""
    return type(module) is SpatialFeedForward


def gated_gelu(module: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Tensor:
    """What `GEGLU` and `GatedGelu` compute; with a gradient their own."""
    if torch.is_grad_enabled():
        return type(module).forward(module, hidden_states, *args, **more)
    proj = module.proj
    if type(proj) is nn.Linear and proj.bias is not None and runs_onednn(proj.weight, hidden_states):
        kernel: Any = torch.ops.mkldnn._linear_pointwise
        (values, gate), (values_bias, gate_bias) = proj.weight.chunk(2), proj.bias.chunk(2)
        gates = kernel(hidden_states, gate, gate_bias, "gelu", [], "none")
        return kernel.binary(hidden_states, gates, values, values_bias, "mul")
    made, gate = proj(hidden_states).chunk(2, dim=-1)
    return functional.gelu(gate).mul_(made)


def gated_gelu_fits(module: nn.Module) -> bool:
    """Whether a module is a GEGLU, the image U-Net's or a temporal layer's."""
    return type(module) in {GEGLU, GatedGelu}
