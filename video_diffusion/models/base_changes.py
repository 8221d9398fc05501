"""What a video needs of the image U-Net besides temporal layers, put on by hooks and taken off again."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from video_diffusion.shapes import Latents, fold_frames

NumFrames = Callable[[], int | None]


def pool_resnet_norms(unet: UNet2DConditionModel, num_frames: NumFrames) -> list[RemovableHandle]:
    """Make every norm of the U-Net's resnets, and its last one, average over the frames of each video."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        count = num_frames()
        return None if count is None else rearrange(inputs[0], "(b f) c h w -> b c (f h) w", f=count)

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        count = num_frames()
        return None if count is None else rearrange(output, "b c (f h) w -> (b f) c h w", f=count)

    blocks = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
    norms = [norm for block in blocks for resnet in block.resnets for norm in (resnet.norm1, resnet.norm2)]
    if unet.conv_norm_out is not None:
        norms.append(unet.conv_norm_out)
    handles = []
    for norm in norms:
        handles += [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]
    return handles


# Input channels beyond the image U-Net's own, as PIA adapters bring them: a mask, and an image's latents.


def take_extra_channels(
    unet: UNet2DConditionModel, conv_in: nn.Conv2d, is_video: Callable[[], bool]
) -> list[RemovableHandle]:
    """Let the U-Net's first convolution take more channels, without editing it.

    A convolution is linear, so it is the U-Net's own on its own channels plus the adapter's on the others.
    The adapter's weights for the first channels, and its bias, are not used: the image model's stand, so that
    any image model fits (as diffusers does for PIA).
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


# Conditions of a video made fit for a batch in which every frame is an item.


def folded_residual(residual: Tensor) -> Tensor:
    """Fold the frames of a ControlNet's residual, if they are not yet."""
    return fold_frames(residual) if residual.ndim == 5 else residual


def per_frame_condition(name: str, condition: object, num_videos: int, num_frames: int) -> object:
    """Repeat each video's condition for its frames; lists (one entry per IP-Adapter) go entry by entry."""
    if isinstance(condition, list | tuple):
        return [per_frame_condition(name, entry, num_videos, num_frames) for entry in condition]
    if not isinstance(condition, Tensor) or len(condition) == num_videos * num_frames:
        return condition
    if len(condition) != num_videos:
        raise ValueError(
            f"{name} must have one item per video ({num_videos}) or per frame ({num_videos * num_frames}), "
            f"but has {len(condition)}"
        )
    return condition.repeat_interleave(num_frames, dim=0)


# The videos of a batch one after the other, guidance's two passes too: less memory, a little more time.


PER_VIDEO = {
    "timestep", "prompt_embeds", "added_cond_kwargs", "down_block_additional_residuals",
    "mid_block_additional_residual", "timestep_cond", "class_labels",
}  # fmt: skip
"""Arguments of a `VideoUNet` that may hold one item for each video, or one for each of its frames."""
VIDEO_NUMBERS = {"image_videos"}
"""Arguments that name some videos of the batch."""


def one_by_one(model: Callable[..., Latents], latents: Latents, arguments: Mapping[str, object]) -> Latents:
    """Ask a `VideoUNet` for each video of a batch alone."""
    num_videos, _, num_frames, _, _ = latents.shape
    predictions = []
    for video in range(num_videos):
        own = {
            name: _of_video(value, video, num_videos, num_frames) if name in PER_VIDEO else value
            for name, value in arguments.items()
        }
        for name in VIDEO_NUMBERS & own.keys():
            numbers = own[name]
            own[name] = (0,) if isinstance(numbers, Collection) and video in numbers else ()
        predictions.append(model(latents[video : video + 1], **own))
    return torch.cat(predictions)


def _of_video(value: object, video: int, num_videos: int, num_frames: int) -> object:
    if isinstance(value, Mapping):
        return {name: _of_video(entry, video, num_videos, num_frames) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_of_video(entry, video, num_videos, num_frames) for entry in value]
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if len(value) == num_videos:
        return value[video : video + 1]
    if len(value) == num_videos * num_frames:
        return value[video * num_frames : (video + 1) * num_frames]
    return value


# Gradient checkpointing, cut so that the dearest operations do not run twice.
#
# A region is computed again only up to the last tensor that its backward pass needs, which is the input of
# its last operation. So a region that ends with a convolution or a matrix product does not repeat that one.


Activations: TypeAlias = Tensor | tuple[Tensor | tuple[Tensor, ...], ...]
"""What a module of a U-Net returns: a feature map, or it and those for skip connections."""


def is_plain_resnet(module: nn.Module) -> bool:
    """Whether a module is a resnet of the usual kind: SiLU, time added, no change of size, no rescaling."""
    if type(module) is not ResnetBlock2D:
        return False
    resnet: ResnetBlock2D = module
    return (
        isinstance(resnet.nonlinearity, nn.SiLU)
        and resnet.time_emb_proj is not None
        and resnet.time_embedding_norm == "default"
        and not resnet.skip_time_act
        and resnet.upsample is None
        and resnet.downsample is None
        and resnet.output_scale_factor == 1
        and (resnet.dropout.p == 0 or not resnet.training)
    )


@contextmanager
def resnet_in_halves(resnet: ResnetBlock2D, run: Callable[..., Tensor]) -> Iterator[None]:
    """Inside, a plain resnet computes the same, but as two regions that end with its convolutions.

    What is kept are the inputs of its two norms. As one region, as diffusers has it, it would keep one of
    them less and compute its first convolution twice.
    """

    def first(hidden_states: Tensor) -> Tensor:
        return resnet.conv1(functional.silu(resnet.norm1(hidden_states)))

    def second(hidden_states: Tensor) -> Tensor:
        return resnet.conv2(functional.silu(resnet.norm2(hidden_states)))

    def forward(input_tensor: Tensor, temb: Tensor) -> Tensor:
        embedded = resnet.time_emb_proj(functional.silu(temb))[:, :, None, None]
        hidden_states = run(second, run(first, input_tensor) + embedded)
        shortcut = input_tensor if resnet.conv_shortcut is None else resnet.conv_shortcut(input_tensor)
        return shortcut + hidden_states

    own = vars(resnet)
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        if before is not None:
            own["forward"] = before
