"""Small real components with random weights: a text-to-video model in a few thousand parameters."""

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from video_diffusion.models import MotionAdapter

TEXT_WIDTH = 12
BLOCKS = {
    "mixed": (("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")),
    "attention": (
        ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "three": (
        ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
}


def tiny_unet(blocks: str = "mixed", seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """An image U-Net of one of `BLOCKS`' layouts, in float32."""
    torch.manual_seed(seed)
    down, up = BLOCKS[blocks]
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": (8, 16, 24)[: len(down)],
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


def tiny_adapter(unet: UNet2DConditionModel, seed: int = 1, **changes: Any) -> MotionAdapter:
    """An adapter for `unet` whose every weight is random, so that nothing is the identity."""
    torch.manual_seed(seed)
    adapter = MotionAdapter.for_unet(unet, **({"num_attention_heads": 2, "max_num_frames": 9} | changes))
    # Drawn in float32, since diffusers' motion U-Net rounds to it when it is made from an image U-Net.
    return randomised(adapter.float()).to(unet.dtype).eval()


def randomised(module: Any) -> Any:
    """Draw every parameter anew, matrices so that activations keep their size."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    return module


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())
