"""diffusers' motion U-Net taken apart into the image U-Net and the motion adapter that it was made from.

A folder that `diffusers.AnimateDiffPipeline` saved holds the two fused, with every weight under its old name.
"""

import inspect
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from video_diffusion.models import MotionAdapter

_IMAGE_BLOCKS = {
    "DownBlockMotion": "DownBlock2D",
    "CrossAttnDownBlockMotion": "CrossAttnDownBlock2D",
    "UpBlockMotion": "UpBlock2D",
    "CrossAttnUpBlockMotion": "CrossAttnUpBlock2D",
}


def split_motion_unet(motion_unet: Any, norm_scope: str) -> tuple[UNet2DConditionModel, MotionAdapter]:
    """Split a `UNetMotionModel`; the weights are shared with it, not copied.

    Args:
        motion_unet: The fused model.
        norm_scope: How its temporal layers were trained; the fused model does not say.
    """
    config = dict(motion_unet.config)
    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters)
    image_config = {key: value for key, value in config.items() if key in known}
    image_config |= {
        "down_block_types": tuple(_IMAGE_BLOCKS[name] for name in config["down_block_types"]),
        "up_block_types": tuple(_IMAGE_BLOCKS[name] for name in config["up_block_types"]),
        "attention_head_dim": config[
            "num_attention_heads"
        ],  # diffusers' old misnomer for the number of heads
        "num_attention_heads": None,
    }
    unet = UNet2DConditionModel(**image_config)
    adapter = MotionAdapter(
        block_out_channels=config["block_out_channels"],
        motion_layers_per_block=config["layers_per_block"],
        motion_transformer_layers_per_block=config["temporal_transformer_layers_per_block"],
        motion_mid_block_layers_per_block=config["mid_block_layers"],
        motion_transformer_layers_per_mid_block=config["temporal_transformer_layers_per_mid_block"],
        motion_num_attention_heads=config["motion_num_attention_heads"],
        motion_norm_num_groups=config["norm_num_groups"],
        motion_max_seq_length=config["motion_max_seq_length"],
        use_motion_mid_block=config["use_motion_mid_block"],
        norm_scope=norm_scope,
    )
    weights = motion_unet.state_dict()
    temporal = {name: tensor for name, tensor in weights.items() if ".motion_modules." in name}
    adapter.load_state_dict(temporal, assign=True)
    unet.load_state_dict({k: v for k, v in weights.items() if k not in temporal}, assign=True)
    return unet.eval(), adapter.eval()
