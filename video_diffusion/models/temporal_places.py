"""Where temporal layers sit in an image U-Net."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from video_diffusion.models.motion_adapter import MotionAdapter
from video_diffusion.models.temporal_transformer import TemporalTransformer


@dataclass(frozen=True)
class TemporalPlace:
    """Where one temporal layer sits.

    Attributes:
        block: Of the U-Net: down.0, down.1, …, mid, up.0, …, from the input on.
        spatial: Module whose output the layer takes.
        temporal: The layer.
    """

    block: str
    spatial: nn.Module
    temporal: TemporalTransformer


Places: TypeAlias = Iterator[TemporalPlace]


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
    block_name = name.replace("_blocks", "").replace("_block", "")
    for module, layer in zip(spatial, temporal, strict=True):
        yield TemporalPlace(block_name, module, layer)


def temporal_blocks(motion_adapter: MotionAdapter) -> tuple[str, ...]:
    """Name the blocks in which an adapter has temporal layers, from the input on, as `TemporalPlace` does."""
    down = [f"down.{index}" for index in range(len(motion_adapter.down_blocks))]
    up = [f"up.{index}" for index in range(len(motion_adapter.up_blocks))]
    return (*down, *([] if motion_adapter.mid_block is None else ["mid"]), *up)
