"""All temporal weights of a model as one module, and where they sit in an image U-Net."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, get_args

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from video_diffusion.models.temporal import NormScope, TemporalTransformer
from video_diffusion.settings import NoiseType

UNetBlock: TypeAlias = (
    CrossAttnDownBlock2D
    | CrossAttnUpBlock2D
    | DownBlock2D
    | UNetMidBlock2D
    | UNetMidBlock2DCrossAttn
    | UpBlock2D
)
"""A block of an image U-Net as diffusers builds it."""


class TemporalBlock(nn.Module):
    """The temporal layers that belong to one block of the U-Net.

    Args:
        layers: The layers, in the order in which the U-Net's block runs.
    """

    def __init__(self, layers: Iterable[TemporalTransformer]) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(layers)


class MotionAdapter(ModelMixin, ConfigMixin):
    """Owns all temporal layers; `VideoUNet` puts them to work inside an image U-Net.

    A freshly initialised adapter is the identity: the video model then equals the image model, frame by
    frame.

    diffusers writes no `norm_scope` and always computes "clip". A folder without the field is read as
    "frame", because the published AnimateDiff weights were trained that way; for weights that were trained
    with diffusers, say `MotionAdapter.from_pretrained(folder, norm_scope="clip")`.

    Args:
        block_out_channels: Channels of the U-Net's blocks, from the outside in.
        motion_layers_per_block: Temporal layers per down block, one number or one per block; up blocks have
            one more.
        motion_transformer_layers_per_block: Transformer blocks per temporal layer, one number or one a block.
        motion_mid_block_layers_per_block: Temporal layers of the mid block.
        motion_transformer_layers_per_mid_block: Transformer blocks of those, one number or one per layer.
        motion_num_attention_heads: Attention heads, one number or one per block.
        motion_norm_num_groups: Groups of the group norm.
        motion_max_seq_length: Frames that the position tables know: the longest clip in one pass.
        use_motion_mid_block: Whether there are temporal layers in the mid block.
        conv_in_channels: Channels that the U-Net's first convolution takes with a PIA adapter (9: latents, a
            mask, an image's latents), which brings the weights for those beyond the U-Net's own; else None.
        norm_scope: What the group norm averages over: "frame" or "clip".
        resnet_norm_scope: What the image U-Net's resnet norms average over while the adapter is attached:
            "frame", or "clip" as only AnimateDiff v1 was trained. diffusers always computes "frame".
        family: Which published kind of temporal layers this is or was trained from, a key of
            `loading.FAMILIES`, which has its noise schedule; None is none of them.
        noise_type: How the first noise of frames was correlated in training, see `sampling.initial_noise`.
        noise_alpha: How closely.
        zero_terminal_snr: Whether it was trained with a last step of pure noise (Lin et al. 2023), which
            sampling must then start from.
        vocabulary: All words that it and its image model were trained on, if that is all they know; else
            empty.
        distilled: The schedule that it was distilled for: `num_inference_steps`, `guidance_scale`,
            `scheduler`, `timestep_spacing`. None where it was not.

    Raises:
        ValueError: A field is out of range or of the wrong length.

    >>> from video_diffusion.loading import load_model
    >>> fresh = MotionAdapter.for_unet(load_model("embedded").unet, max_num_frames=16)
    >>> fresh.max_num_frames
    16
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012  diffusers reads a plain list from the class

    @register_to_config
    def __init__(
        self,
        *,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        motion_layers_per_block: int | Sequence[int] = 2,
        motion_transformer_layers_per_block: int | Sequence[int] = 1,
        motion_mid_block_layers_per_block: int = 1,
        motion_transformer_layers_per_mid_block: int | Sequence[int] = 1,
        motion_num_attention_heads: int | Sequence[int] = 8,
        motion_norm_num_groups: int = 32,
        motion_max_seq_length: int = 32,
        use_motion_mid_block: bool = True,
        conv_in_channels: int | None = None,
        norm_scope: str = "frame",
        noise_type: str = "independent",
        noise_alpha: float = 1.0,
        zero_terminal_snr: bool = False,
        resnet_norm_scope: str = "frame",
        family: str | None = None,
        vocabulary: Sequence[str] = (),
        distilled: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if noise_type not in get_args(NoiseType):
            raise ValueError(
                f"noise_type must be one of {', '.join(get_args(NoiseType))}, not {noise_type!r}; "
                "use the one it was trained with"
            )
        for field, scope in (("norm_scope", norm_scope), ("resnet_norm_scope", resnet_norm_scope)):
            if scope not in get_args(NormScope):
                raise ValueError(
                    f"{field} must be 'frame' or 'clip', not {scope!r}; use the one it was trained with"
                )
        num_blocks = len(block_out_channels)
        num_layers = _one_for_each("motion_layers_per_block", motion_layers_per_block, num_blocks)
        num_heads = _one_for_each("motion_num_attention_heads", motion_num_attention_heads, num_blocks)
        depths = _one_for_each(
            "motion_transformer_layers_per_block", motion_transformer_layers_per_block, num_blocks
        )

        def block(index: int, count: int, depth: int | Sequence[int], name: str) -> TemporalBlock:
            return TemporalBlock(
                TemporalTransformer(
                    num_channels=block_out_channels[index],
                    num_heads=num_heads[index],
                    num_layers=layers,
                    num_groups=motion_norm_num_groups,
                    num_positions=motion_max_seq_length,
                    norm_scope=cast(NormScope, norm_scope),
                )
                for layers in _one_for_each(name, depth, count)
            )

        self.conv_in = (
            None
            if conv_in_channels is None
            else nn.Conv2d(conv_in_channels, block_out_channels[0], kernel_size=3, padding=1)
        )
        name = "motion_transformer_layers_per_block"
        self.down_blocks = nn.ModuleList(block(i, num_layers[i], depths[i], name) for i in range(num_blocks))
        self.mid_block = (
            block(
                num_blocks - 1,
                motion_mid_block_layers_per_block,
                motion_transformer_layers_per_mid_block,
                "motion_transformer_layers_per_mid_block",
            )
            if use_motion_mid_block
            else None
        )
        self.up_blocks = nn.ModuleList(
            block(i, num_layers[i] + 1, depths[i], name) for i in reversed(range(num_blocks))
        )

    @property
    def max_num_frames(self) -> int:
        """The longest clip, in frames, that one pass can take: the rows of the position tables."""
        return int(self.config.motion_max_seq_length)

    def check_num_frames(self, num_frames: int) -> None:
        """Refuse clips that are too long for one pass; one frame, which bypasses the layers, never is.

        Raises:
            ValueError: The adapter does not know that many positions.
        """
        if num_frames > max(self.max_num_frames, 1):
            raise ValueError(
                f"num_frames is {num_frames} but this motion adapter knows {self.max_num_frames} positions; "
                f"set context_length (--context-length) to {self.max_num_frames} or less for longer clips"
            )

    @classmethod
    def for_unet(
        cls,
        unet: UNet2DConditionModel,
        *,
        num_transformer_layers: int = 1,
        num_attention_heads: int | Sequence[int] = 8,
        max_num_frames: int = 32,
        use_mid_block: bool | None = None,
        norm_scope: NormScope = "frame",
    ) -> "MotionAdapter":
        """Make a freshly initialised adapter, the identity, for an image U-Net.

        Args:
            unet: Only its configuration is read, and its dtype and device are taken over.
            num_transformer_layers: Transformer blocks per temporal layer.
            num_attention_heads: Attention heads, one number or one per block.
            max_num_frames: Frames that the position tables shall know.
            use_mid_block: Whether to put temporal layers into the mid block; None means if the U-Net has one.
            norm_scope: What the group norm averages over; "clip" if diffusers shall compute the same.
        """
        layers = unet.config.layers_per_block
        adapter = cls(
            block_out_channels=tuple(unet.config.block_out_channels),
            motion_layers_per_block=layers if isinstance(layers, int) else tuple(layers),
            motion_transformer_layers_per_block=num_transformer_layers,
            motion_transformer_layers_per_mid_block=num_transformer_layers,
            motion_num_attention_heads=num_attention_heads,
            motion_norm_num_groups=unet.config.norm_num_groups or 32,
            motion_max_seq_length=max_num_frames,
            use_motion_mid_block=unet.mid_block is not None if use_mid_block is None else use_mid_block,
            norm_scope=norm_scope,
        )
        # ModelMixin.to warns about modules to keep in float32 even when there are none (diffusers 0.42.1).
        return nn.Module.to(adapter, device=unet.device, dtype=unet.dtype)


def _one_for_each(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Repeat one number `count` times, or check that a sequence has that many."""
    if isinstance(value, int):
        return (value,) * count
    if len(value) != count:
        raise ValueError(
            f"{name} must be one number or {count} of them, but holds {len(value)}: {tuple(value)}"
        )
    return tuple(value)


# Where temporal layers sit in an image U-Net.


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


def temporal_places(unet: UNet2DConditionModel, motion_adapter: MotionAdapter) -> Iterator[TemporalPlace]:
    """Pair each temporal layer with the spatial module whose output it takes.

    That is the last spatial module of each layer of the U-Net: the attention where the block has attentions,
    else the resnet. In the mid block it is the attention too: the last resnet sees frames already mixed.

    Args:
        unet: The image U-Net.
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
    mid_block = motion_adapter.mid_block
    if mid_block is not None and unet.mid_block is None:
        raise ValueError(
            "motion_adapter has a temporal mid block, but this U-Net has no mid block; "
            "use an adapter made for it, such as MotionAdapter.for_unet(unet)"
        )
    num_mid = 0 if mid_block is None else 1
    spatial_blocks = [*unet.down_blocks, *[unet.mid_block] * num_mid, *unet.up_blocks]
    layers = [*motion_adapter.down_blocks, *[mid_block] * num_mid, *motion_adapter.up_blocks]
    for name, block, temporal in zip(temporal_blocks(motion_adapter), spatial_blocks, layers, strict=True):
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        # A mid block has one resnet more than attentions; the zip leaves its last one out.
        spatial = [
            resnet if attention is None else attention
            for attention, resnet in zip(attentions, block.resnets, strict=False)
        ]
        if len(spatial) != len(temporal.motion_modules):
            raise ValueError(
                f"motion_adapter has {len(temporal.motion_modules)} temporal layers in {name}, but this "
                f"U-Net has {len(spatial)} layers there; use an adapter for the same base model"
            )
        for module, layer in zip(spatial, temporal.motion_modules, strict=True):
            yield TemporalPlace(name, module, layer)


def temporal_blocks(motion_adapter: MotionAdapter) -> tuple[str, ...]:
    """Name the blocks in which an adapter has temporal layers, from the input on, as `TemporalPlace` does."""
    down = [f"down.{index}" for index in range(len(motion_adapter.down_blocks))]
    up = [f"up.{index}" for index in range(len(motion_adapter.up_blocks))]
    return (*down, *([] if motion_adapter.mid_block is None else ["mid"]), *up)
