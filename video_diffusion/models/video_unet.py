"""Where temporal layers sit in an image U-Net: attach, run, detach.

The image model is neither copied nor edited. A forward hook on the last spatial module of each of its layers
hands the feature map to the temporal layer that belongs there; without the hooks the image model is what it
was, bit for bit.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TypeAlias, TypeVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from einops import rearrange, repeat
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from video_diffusion.models.base_changes import (
    Activations,
    folded_residual,
    is_plain_resnet,
    one_by_one,
    per_frame_condition,
    pool_resnet_norms,
    resnet_in_halves,
    take_extra_channels,
)
from video_diffusion.models.motion_adapter import (
    MotionAdapter,
    TemporalPlace,
    temporal_blocks,
    temporal_places,
)
from video_diffusion.shapes import (
    FrameNumbers,
    FrameWindow,
    Latents,
    PromptEmbeds,
    fold_frames,
    unfold_frames,
)

BlockFactors = Mapping[str, float]
Result = TypeVar("Result")


@dataclass(frozen=True)
class FrameLayout:
    """What temporal layers must know of a pass; the arguments of `VideoUNet.forward` tell the meaning.

    Attributes:
        num_frames: Of each video.
        positions: For each frame its row of the position table; None means 0, 1, 2, …
        motion_scale: Factor on the scores of attention.
        windows: Frames that are mixed with each other; None mixes all with all.
        motion_effect: Factor on what temporal layers add.
        motion_scale_blocks: Factors on the motion scale, by block.
        motion_effect_blocks: Factors on the motion effect, by block.
        image_videos: Videos of the batch that temporal layers leave alone.
    """

    num_frames: int
    positions: Tensor | None
    motion_scale: FrameNumbers
    windows: Sequence[FrameWindow] | None
    motion_effect: FrameNumbers = 1.0
    motion_scale_blocks: BlockFactors = field(default_factory=dict)
    motion_effect_blocks: BlockFactors = field(default_factory=dict)
    image_videos: Collection[int] = ()

    def check(self, motion_adapter: MotionAdapter) -> None:
        """Refuse what an adapter cannot serve."""
        check_blocks("motion_scale_blocks", self.motion_scale_blocks, motion_adapter)
        check_blocks("motion_effect_blocks", self.motion_effect_blocks, motion_adapter)
        longest = self.num_frames if self.windows is None else self._check_windows(self.windows)
        if self.positions is None:
            motion_adapter.check_num_frames(longest)
            return
        known, positions = motion_adapter.max_num_frames, self.positions
        if len(positions) != self.num_frames:
            raise ValueError(
                f"frame_positions must name one row per frame, but holds {len(positions)} "
                f"for {self.num_frames} frames; pass None to count from 0"
            )
        lowest, highest = float(positions[:longest].min()), float(positions[:longest].max())
        if lowest < 0 or highest > known - 1:
            raise ValueError(
                f"frame_positions must lie in 0…{known - 1}, the rows this motion adapter knows, but span "
                f"{lowest:g}…{highest:g}; take frames that lie closer together"
            )

    def _check_windows(self, windows: Sequence[FrameWindow]) -> int:
        """Refuse windows that are not of this clip, and tell the length of the longest."""
        wrong = set(range(self.num_frames)) ^ {frame for window, _ in windows for frame in window}
        if wrong:
            problem = "is missing" if min(wrong) < self.num_frames else "is beyond the clip"
            raise ValueError(
                f"frame_windows must hold every frame of 0…{self.num_frames - 1} and no other, but frame "
                f"{min(wrong)} {problem}; add or drop it"
            )
        return max(len(window) for window, _ in windows)


def check_blocks(name: str, factors: BlockFactors, motion_adapter: MotionAdapter) -> None:
    """Refuse factors for blocks that have no temporal layers.

    Args:
        name: Of the argument, for the message.
        factors: By block.
        motion_adapter: The temporal layers.

    Raises:
        ValueError: There is no such block.
    """
    known = temporal_blocks(motion_adapter)
    for block in factors:
        if block not in known and not any(each.startswith(f"{block}.") for each in known):
            raise ValueError(
                f"{name} names {block}, where this motion adapter has no temporal layers; it has them in "
                f"{', '.join(known)}"
            )


def scaled(numbers: FrameNumbers, factors: BlockFactors, block: str) -> FrameNumbers:
    """Numbers times the factor of a block; the closer name wins."""
    factor = factors.get(block, factors.get(block.partition(".")[0], 1.0))
    return numbers if factor == 1 else numbers * factor


# The forward hook by which a temporal layer sits in the image U-Net.


class TemporalHook:
    """Sends what a spatial module returns through the temporal layer that belongs there.

    Args:
        layout: Tells what the running pass is; None is a pass of images.
        place: The layer, and the block that it sits in.
    """

    def __init__(self, layout: Callable[[], FrameLayout | None], place: TemporalPlace) -> None:
        self.layout = layout
        self.block = place.block
        self.temporal = place.temporal

    def __call__(self, module: nn.Module, inputs: object, output: Activations) -> Activations | None:
        """Stand in for the module's output, or leave it (None) in an image pass."""
        layout = self.layout()
        if layout is None or layout.num_frames == 1:
            return None
        images = output[0] if isinstance(output, tuple) else output
        assert isinstance(images, Tensor)
        mixed = self._mix_videos(images, layout) if layout.image_videos else self._mix(images, layout)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    def _mix_videos(self, images: Tensor, layout: FrameLayout) -> Tensor:
        """Leave some videos of the batch as they are."""
        by_video = rearrange(images, "(b f) c h w -> b f c h w", f=layout.num_frames)
        videos = [video for video in range(len(by_video)) if video not in layout.image_videos]
        if not videos:
            return images
        own = self._mix(rearrange(by_video[videos], "b f c h w -> (b f) c h w"), layout)
        index = torch.tensor(videos, device=images.device)
        mixed = by_video.index_copy(0, index, rearrange(own, "(b f) c h w -> b f c h w", f=layout.num_frames))
        return rearrange(mixed, "b f c h w -> (b f) c h w")

    def _mix(self, images: Tensor, layout: FrameLayout) -> Tensor:
        mixed: Tensor = self.temporal(
            images,
            layout.num_frames,
            layout.positions,
            scaled(layout.motion_scale, layout.motion_scale_blocks, self.block),
            layout.windows,
            scaled(layout.motion_effect, layout.motion_effect_blocks, self.block),
        )
        return mixed


# Where temporal layers sit in an image U-Net: attach, run, detach.
#
# The image model is neither copied nor edited. A forward hook on the last spatial module of each of its
# layers hands the feature map to the temporal layer that belongs there; without the hooks the image model is
# what it was, bit for bit.


Conditions: TypeAlias = Mapping[str, object]


class VideoUNet(nn.Module):
    """An image U-Net that denoises all frames of a video jointly.

    Use it as a module, and `detach()` when the image model is wanted back, or as a context manager that
    detaches. While attached, calling the image U-Net itself still gives the image model: only passes that
    come through here are videos.

    Args:
        unet: Of any kind that diffusers has, with or without LoRA, IP-Adapter or its own attention
            processors.
        motion_adapter: The temporal layers; made for a U-Net of the same blocks, layers and channels.
        one_by_one: Whether the videos of a batch go through one after the other: less memory, more time.

    Raises:
        ValueError: The two do not fit together, or the U-Net carries temporal layers already.

    >>> from video_diffusion.loading import load_model
    >>> parts = load_model("embedded")
    >>> with VideoUNet(parts.unet, parts.motion_adapter) as video_unet:
    ...     latents = torch.zeros(1, parts.unet.config.in_channels, 3, 16, 16)
    ...     noise_pred = video_unet(latents, 10, parts.encode_prompts(["a red circle"]))
    >>> noise_pred.shape == latents.shape
    True
    """

    unet: UNet2DConditionModel
    motion_adapter: MotionAdapter

    def __init__(
        self, unet: UNet2DConditionModel, motion_adapter: MotionAdapter, one_by_one: bool = False
    ) -> None:
        super().__init__()
        self.unet = unet
        self.motion_adapter = motion_adapter
        self.one_by_one = one_by_one
        self._layout: FrameLayout | None = None
        self._handles: list[RemovableHandle] = []
        self.is_attached = False
        self.attach()

    def attach(self) -> None:
        """Put the temporal layers to work; nothing happens if they are."""
        if self.is_attached:
            return
        places = list(temporal_places(self.unet, self.motion_adapter))
        for place in places:
            if any(isinstance(hook, TemporalHook) for hook in place.spatial._forward_hooks.values()):
                raise ValueError(
                    "unet already carries the temporal layers of another VideoUNet; detach() that one first"
                )
        self._handles = []
        if self.motion_adapter.conv_in is not None:
            self._handles += take_extra_channels(
                self.unet, self.motion_adapter.conv_in, lambda: self._layout is not None
            )
        if self.motion_adapter.config.resnet_norm_scope == "clip":
            self._handles += pool_resnet_norms(
                self.unet, lambda: None if self._layout is None else self._layout.num_frames
            )
        self._handles += [
            place.spatial.register_forward_hook(TemporalHook(lambda: self._layout, place)) for place in places
        ]
        self.is_attached = True
        if self.unet.is_gradient_checkpointing:
            self.enable_gradient_checkpointing()

    def detach(self) -> UNet2DConditionModel:
        """Take the temporal layers off and return the image U-Net as it was, bit for bit."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.is_attached = False
        if self.unet.is_gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()  # diffusers' own way again, which knows no frames
        return self.unet

    def __enter__(self) -> "VideoUNet":
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them, temporal layers included.

        diffusers' own motion U-Net leaves the temporal layers of its down and up blocks out.
        """
        self.unet.enable_gradient_checkpointing(self._checkpoint)
        self.motion_adapter.enable_gradient_checkpointing()

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations again."""
        self.unet.disable_gradient_checkpointing()
        self.motion_adapter.disable_gradient_checkpointing()

    def _checkpoint(self, module: nn.Module, *inputs: object) -> Activations:
        """Run a module of the U-Net so that what it computes on the way is recomputed, not kept."""
        if is_plain_resnet(module):
            with resnet_in_halves(module, self._region):
                return module(*inputs)
        return self._region(module, *inputs)

    def _region(self, function: Callable[..., Result], *inputs: object) -> Result:
        """Keep a function's inputs alone, and the layout of this pass for when it runs again."""
        layout = self._layout

        def run(*inputs: object) -> Result:
            outer, self._layout = self._layout, layout
            try:
                return function(*inputs)
            finally:
                self._layout = outer

        result: Result = checkpoint(run, *inputs, use_reentrant=False)
        return result

    def forward(
        self,
        latents: Latents,
        timestep: Shaped[Tensor, ""] | Shaped[Tensor, " b"] | int | float,
        prompt_embeds: PromptEmbeds,
        *,
        frame_positions: Int[Tensor, " positions"] | Float[Tensor, " positions"] | None = None,
        position_stretch: float = 1.0,
        motion_scale: FrameNumbers = 1.0,
        frame_windows: Sequence[FrameWindow] | None = None,
        motion_effect: FrameNumbers = 1.0,
        motion_scale_blocks: BlockFactors | None = None,
        motion_effect_blocks: BlockFactors | None = None,
        image_videos: Collection[int] = (),
        added_cond_kwargs: Conditions | None = None,
        cross_attention_kwargs: Conditions | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        timestep_cond: Float[Tensor, "b embed"] | None = None,
        class_labels: Shaped[Tensor, "b *labels"] | None = None,
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict what the scheduler asks for (noise, velocity or sample) for all frames at once.

        One frame bypasses the temporal layers: the image model's answer, and no gradient for the adapter.

        Args:
            latents: Noisy latents, scaled as the scheduler says.
            timestep: One for all videos or one for each.
            prompt_embeds: Text embeddings of each video, or of each of its frames.
            frame_positions: When each frame happens, as rows of the adapter's position table: 0, 2, 4, … for
                every second frame of a clip. None means 0, 1, 2, …
            position_stretch: How far apart the rows of the table are, in frames: 2 halves all positions.
            motion_scale: Factor on the scores of temporal attention, for all frames or for each; 1 is the
                model as trained.
            frame_windows: For clips longer than the position table: frames that temporal layers mix with each
                other, and their weights; see `TemporalTransformer`.
            motion_effect: Factor on what temporal layers add, for all frames or each; 0 is the image model.
            motion_scale_blocks: Factors on the motion scale of the layers in a block: down, mid and up, or
                one such as down.0; the closer name wins.
            motion_effect_blocks: Likewise, on the motion effect.
            image_videos: Numbers of the batch's videos that pass without temporal layers, as with a motion
                effect of 0.
            added_cond_kwargs: The image U-Net's further conditions (SDXL's `text_embeds` and `time_ids`,
                IP-Adapter's `image_embeds`); a tensor has one item per video, or one per frame in folded
                order.
            cross_attention_kwargs: Handed to the image U-Net's attention processors as they are.
            down_block_additional_residuals: A ControlNet's, `b c f h w` or with frames folded into the batch.
            mid_block_additional_residual: Likewise.
            timestep_cond: Guidance embedding of distilled models, one per video.
            class_labels: Class conditions, one per video.

        Raises:
            ValueError: The adapter does not know that many positions, or a condition's length fits neither
                videos nor frames.
        """
        num_videos, _, num_frames, _, _ = latents.shape
        if self.one_by_one and num_videos > 1:
            arguments = {
                "timestep": timestep,
                "prompt_embeds": prompt_embeds,
                "frame_positions": frame_positions,
                "position_stretch": position_stretch,
                "motion_scale": motion_scale,
                "frame_windows": frame_windows,
                "motion_effect": motion_effect,
                "motion_scale_blocks": motion_scale_blocks,
                "motion_effect_blocks": motion_effect_blocks,
                "image_videos": image_videos,
                "added_cond_kwargs": added_cond_kwargs,
                "cross_attention_kwargs": cross_attention_kwargs,
                "down_block_additional_residuals": down_block_additional_residuals,
                "mid_block_additional_residual": mid_block_additional_residual,
                "timestep_cond": timestep_cond,
                "class_labels": class_labels,
            }
            return one_by_one(self, latents, arguments)
        if not self.is_attached:
            raise ValueError(
                "this VideoUNet is detached: its temporal layers would not run; attach() it first"
            )
        for block in (*self.unet.down_blocks, *self.unet.up_blocks):
            checkpoints = getattr(block, "gradient_checkpointing", False)
            if checkpoints and block._gradient_checkpointing_func != self._checkpoint:
                raise ValueError(
                    "gradient checkpointing was enabled on the image U-Net, which would forget the frames as "
                    "it recomputes; call enable_gradient_checkpointing() of the VideoUNet instead"
                )
        if position_stretch != 1:
            positions = torch.arange(num_frames) if frame_positions is None else frame_positions
            frame_positions = positions / position_stretch
        layout = FrameLayout(
            num_frames,
            frame_positions,
            motion_scale,
            frame_windows,
            motion_effect,
            motion_scale_blocks or {},
            motion_effect_blocks or {},
            image_videos,
        )
        layout.check(self.motion_adapter)

        per_frame = partial(per_frame_condition, num_videos=num_videos, num_frames=num_frames)
        if isinstance(timestep, Tensor) and timestep.ndim == 1:
            timestep = repeat(timestep, "b -> (b f)", f=num_frames)
        if prompt_embeds.ndim == 4:
            prompt_embeds = rearrange(prompt_embeds, "b f n d -> (b f) n d")
        else:
            prompt_embeds = repeat(prompt_embeds, "b n d -> (b f) n d", f=num_frames)
        down, mid = down_block_additional_residuals, mid_block_additional_residual
        if added_cond_kwargs is not None:
            added_cond_kwargs = {name: per_frame(name, value) for name, value in added_cond_kwargs.items()}

        attention = None if cross_attention_kwargs is None else dict(cross_attention_kwargs)

        self._layout = layout
        try:
            (prediction,) = self.unet(
                fold_frames(latents),
                timestep,
                prompt_embeds,
                class_labels=per_frame("class_labels", class_labels),
                timestep_cond=per_frame("timestep_cond", timestep_cond),
                added_cond_kwargs=added_cond_kwargs,
                cross_attention_kwargs=attention,
                down_block_additional_residuals=None
                if down is None
                else [folded_residual(item) for item in down],
                mid_block_additional_residual=None if mid is None else folded_residual(mid),
                return_dict=False,
            )
        finally:
            self._layout = None
        return unfold_frames(prediction, num_frames)
