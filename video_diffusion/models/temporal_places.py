"""Where temporal layers sit in an image U-Net."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import nn

from video_diffusion.models.motion_adapter import MotionAdapter
from video_diffusion.models.temporal_transformer import TemporalTransformer

Places: TypeAlias = Iterator[tuple[nn.Module, TemporalTransformer]]


def temporal_places(unet: Any, motion_adapter: MotionAdapter) -> Places:
    """Pair each temporal layer with the spatial module whose output it takes.

    That is the last spatial module of each layer of the U-Net: the attention where the block has attentions,
    else the resnet. In the mid block it is the attention too: the last resnet sees frames already mixed.

    Args:
        unet: A `UNet2DConditionModel`.
        motion_adapter: The temporal layers.

    Raises:
        ValueError: The adapter was made for another U-Net: channels, blocks or layers differ.
    """
    channels = tuple(unet.config.block_out_channels)
    expected = tuple(motion_adapter.config.block_out_channels)
    if channels != expected:
        raise ValueError(
            f"motion_adapter was made for a U-Net with block_out_channels {expected}, "
            f"but this U-Net has {channels}; use an adapter for the same base model"
        )
    yield from _pair_blocks("down_blocks", unet.down_blocks, motion_adapter.down_blocks)
    if motion_adapter.mid_block is not None:
        if unet.mid_block is None:
            raise ValueError(
                "motion_adapter has a temporal mid block, but this U-Net has no mid block; "
                "use an adapter made for it, such as MotionAdapter.for_unet(unet)"
            )
        yield from _pair_layers("mid_block", unet.mid_block, motion_adapter.mid_block)
    yield from _pair_blocks("up_blocks", unet.up_blocks, motion_adapter.up_blocks)


def _pair_blocks(name: str, blocks: Any, temporal_blocks: Any) -> Places:
    for index, (block, temporal_block) in enumerate(zip(blocks, temporal_blocks, strict=True)):
        yield from _pair_layers(f"{name}.{index}", block, temporal_block)


def _pair_layers(name: str, block: Any, temporal_block: Any) -> Places:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    # A mid block has one resnet more than attentions; the zip leaves its last one out.
    spatial = [
        resnet if attention is None else attention
        for attention, resnet in zip(attentions, block.resnets, strict=False)
    ]
    temporal = list(temporal_block.motion_modules)
    if len(spatial) != len(temporal):
        raise ValueError(
            f"motion_adapter has {len(temporal)} temporal layers in {name}, but this U-Net has "
            f"{len(spatial)} layers there; use an adapter for the same base model"
        )
    yield from zip(spatial, temporal, strict=True)
