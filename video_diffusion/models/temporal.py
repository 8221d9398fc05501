"""The temporal layer: a small transformer along frames that is added to what the image U-Net computes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from video_diffusion.shapes import FrameNumbers, FramePositions, FrameWindow, fold_frames, unfold_frames


class SinusoidalPositions(nn.Module):
    """A fixed table of frame positions, added to what attention reads (Vaswani et al. 2017, section 3.5).

    Row p holds sin(p·ω₀), cos(p·ω₀), sin(p·ω₁), cos(p·ω₁), … with ωᵢ = 10000^(−2i/width). The table is a
    buffer and is stored in checkpoints, as published adapters store theirs: its length is the number of
    frames they know.

    Args:
        width: Features per frame; even.
        num_positions: Rows of the table, the longest clip that one pass can take.
    """

    pe: Tensor

    def __init__(self, width: int, num_positions: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(torch.arange(num_positions), width)[None])

    def forward(
        self, hidden_states: Float[Tensor, "sites f d"], frame_positions: FramePositions | None = None
    ) -> Float[Tensor, "sites f d"]:
        """Add its row to each frame; rows 0, 1, 2, … unless `frame_positions` says which."""
        return hidden_states + self.rows(hidden_states.shape[1], frame_positions)

    def rows(self, num_frames: int, frame_positions: FramePositions | None) -> Float[Tensor, "f d"]:
        """Look up the rows of frames; positions that are not whole numbers lie on the sinusoids between."""
        if frame_positions is None:
            return self.pe[0, :num_frames]
        if frame_positions.is_floating_point():
            return sinusoids(frame_positions.to(self.pe.device), self.pe.shape[-1]).to(self.pe.dtype)
        return self.pe[0, frame_positions]


def sinusoids(positions: FramePositions, width: int) -> Float[Tensor, "f d"]:
    """Compute rows of the table in float32, see `SinusoidalPositions`; positions may lie between two rows."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width)).to(positions.device)
    table = torch.zeros(len(positions), width, device=positions.device)
    table[:, 0::2] = torch.sin(positions[:, None] * frequencies)
    table[:, 1::2] = torch.cos(positions[:, None] * frequencies)
    return table


class TemporalAttention(nn.Module):
    """Multi-head self-attention in which every place of the image attends along its own frames.

    Queries, keys and values have no bias, the output has one.

    Args:
        width: Features per frame.
        num_heads: Heads; divides `width`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(
        self, hidden_states: Float[Tensor, "sites f d"], motion_scale: FrameNumbers = 1.0
    ) -> Float[Tensor, "sites f d"]:
        """Attend along the frames of each site (a site is one place of the image in one video).

        Args:
            hidden_states: What each frame says of the site.
            motion_scale: Factor on the scores before the softmax, for all frames or for each: above 1 a frame
                listens to fewer others, at 0 to all alike.
        """
        query, key, value = (
            rearrange(project(hidden_states), "sites f (k d) -> sites k f d", k=self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if isinstance(motion_scale, Tensor):
            query = query * motion_scale.to(query)[:, None]
        elif motion_scale != 1:
            query = query * motion_scale
        attended = _scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(attended, "sites k f d -> sites f (k d)"))


def _scaled_dot_product_attention(
    query: Float[Tensor, "sites k f d"],
    key: Float[Tensor, "sites k f d"],
    value: Float[Tensor, "sites k f d"],
) -> Float[Tensor, "sites k f d"]:
    """PyTorch's fused attention; in float32 on a CPU when a gradient will be asked for.

    The backward pass of the CPU kernel in bfloat16 is many times slower than in float32 (of one training step
    of the embedded model, 816 of 1693 ms against 45 ms), so half precision is left for these few lines,
    autocast included.
    """
    half_precision = query.dtype in {torch.bfloat16, torch.float16}
    if not (half_precision and query.requires_grad and query.device.type == "cpu"):
        return functional.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return functional.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(
            query.dtype
        )


# The temporal layer: a small transformer along frames that is added to what the image U-Net computes.


NormScope = Literal["frame", "clip"]
"""What a temporal layer's group norm averages over: each frame alone, or all frames of the clip together."""


class GatedGelu(nn.Module):
    """GEGLU (Shazeer 2020): one half of a linear map, gated by the GELU of the other half.

    Args:
        width_in: Features that come in.
        width_out: Features that go out; the linear map makes twice as many.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, 2 * width_out)

    def forward(self, hidden_states: Float[Tensor, "... d"]) -> Float[Tensor, "... d_out"]:
        """Apply the map and the gate."""
        values, gate = self.proj(hidden_states).chunk(2, dim=-1)
        return values * functional.gelu(gate)


class FeedForward(nn.Module):
    """Two linear maps with a GEGLU of four times the width between them, on each frame alone.

    Args:
        width: Features per frame.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Checkpoints number the second map 2: diffusers keeps a dropout at 1, which has no weights.
        self.net = nn.Sequential(GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, hidden_states: Float[Tensor, "sites f d"]) -> Float[Tensor, "sites f d"]:
        """Apply both maps."""
        return self.net(hidden_states)


class TemporalTransformerBlock(nn.Module):
    """Two self-attentions along frames and a feed-forward, each on the normalised input and added to it.

    Positions are added to the normalised input of *each* attention, so that they never enter the residual
    stream.

    Args:
        width: Features per frame.
        num_heads: Attention heads.
        num_positions: Frames that the position table knows.
    """

    # diffusers' protocol: `ModelMixin.enable_gradient_checkpointing` finds and sets these two.
    gradient_checkpointing: bool = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self, width: int, num_heads: int, num_positions: int) -> None:
        super().__init__()
        self.pos_embed = SinusoidalPositions(width, num_positions)
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = TemporalAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = TemporalAttention(width, num_heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(
        self,
        hidden_states: Float[Tensor, "sites f d"],
        frame_positions: FramePositions | None = None,
        motion_scale: FrameNumbers = 1.0,
    ) -> Float[Tensor, "sites f d"]:
        """Mix the frames of each site, then transform each frame alone."""
        return self.transform(self.attend(hidden_states, frame_positions, motion_scale))

    def attend(
        self,
        hidden_states: Float[Tensor, "sites f d"],
        frame_positions: FramePositions | None = None,
        motion_scale: FrameNumbers = 1.0,
    ) -> Float[Tensor, "sites f d"]:
        """Mix the frames of each site: the part of the block in which frames see each other."""

        def mix(norm: nn.Module, attention: nn.Module, frames: Tensor) -> Tensor:
            return attention(self.pos_embed(norm(frames), frame_positions), motion_scale)

        for norm, attention in ((self.norm1, self.attn1), (self.norm2, self.attn2)):
            hidden_states = hidden_states + self._branch(mix, norm, attention, hidden_states)
        return hidden_states

    def transform(self, hidden_states: Float[Tensor, "sites f d"]) -> Float[Tensor, "sites f d"]:
        """Send each frame through the feed-forward."""
        return hidden_states + self._branch(lambda frames: self.ff(self.norm3(frames)), hidden_states)

    def _branch(self, branch: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Run one of the three branches; with checkpointing, each is recomputed for itself."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(branch, *inputs)
        return branch(*inputs)


class TemporalTransformer(nn.Module):
    """Normalise, project, mix along frames, project back, add.

    The layer of AnimateDiff (Guo et al. 2023, section 4.2). Unlike diffusers', whose output projection starts
    random, a freshly initialised one is the identity; and its norm can take each frame alone, as the
    published weights were trained.

    Args:
        num_channels: Channels of the feature map; a multiple of `num_heads` and of `num_groups`.
        num_heads: Attention heads.
        num_layers: Transformer blocks.
        num_groups: Groups of the group norm.
        num_positions: Frames that the position tables know.
        norm_scope: What the group norm averages over.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_heads: int,
        num_layers: int,
        num_groups: int,
        num_positions: int,
        norm_scope: NormScope,
    ) -> None:
        super().__init__()
        if num_channels % num_heads:
            raise ValueError(
                f"motion_num_attention_heads must divide the channels of its layers, but {num_heads} heads "
                f"do not divide {num_channels} channels; choose a divisor"
            )
        self.norm_scope = norm_scope
        self.norm = nn.GroupNorm(num_groups, num_channels, eps=1e-6)
        self.proj_in = nn.Linear(num_channels, num_channels)
        self.transformer_blocks = nn.ModuleList(
            TemporalTransformerBlock(num_channels, num_heads, num_positions) for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(num_channels, num_channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self,
        hidden_states: Float[Tensor, "bf c h w"],
        num_frames: int,
        frame_positions: FramePositions | None = None,
        motion_scale: FrameNumbers = 1.0,
        frame_windows: Sequence[FrameWindow] | None = None,
        motion_effect: FrameNumbers = 1.0,
    ) -> Float[Tensor, "bf c h w"]:
        """Mix the frames of each video.

        Args:
            hidden_states: The image U-Net's feature map, frames folded into the batch.
            num_frames: Frames of one video.
            frame_positions: Rows of the position table; None means 0, 1, 2, …
            motion_scale: Factor on the scores of attention.
            frame_windows: Frames that are mixed with each other, each window with the positions of the first
                frames, and how they count where windows overlap; every frame is in one. None mixes all with
                all.
            motion_effect: Factor on what the layer adds, for all frames or for each; 0 adds nothing.
        """
        height, width = hidden_states.shape[-2:]
        if self.norm_scope == "frame":
            frames = self.norm(hidden_states)
        else:
            frames = fold_frames(self.norm(unfold_frames(hidden_states, num_frames)))
        frames = self.proj_in(rearrange(frames, "(b f) c h w -> (b h w) f c", f=num_frames))
        for block in self.transformer_blocks:
            assert isinstance(block, TemporalTransformerBlock)
            if frame_windows is None:
                frames = block(frames, frame_positions, motion_scale)
            else:
                frames = self._run_in_windows(block, frames, frame_positions, motion_scale, frame_windows)
        frames = self.proj_out(frames)
        if isinstance(motion_effect, Tensor):
            frames = frames * motion_effect.to(frames)[:, None]
        elif motion_effect != 1:
            frames = frames * motion_effect
        frames = rearrange(frames, "(b h w) f c -> (b f) c h w", h=height, w=width)
        return hidden_states + frames

    def _run_in_windows(
        self,
        block: TemporalTransformerBlock,
        frames: Float[Tensor, "sites f d"],
        frame_positions: FramePositions | None,
        motion_scale: FrameNumbers,
        windows: Sequence[FrameWindow],
    ) -> Float[Tensor, "sites f d"]:
        """Average, by weight, what attention makes of each window (FreeNoise, Qiu et al. 2023, section 4.2).

        diffusers 0.42 divides the last frames by the wrong weights where windows do not end with the clip;
        this is right for every length.
        """
        total, counts = torch.zeros_like(frames), torch.zeros_like(frames[0, :, :1])
        for window, weights in windows:
            rows = torch.tensor(window, device=frames.device)
            scale = (
                motion_scale[rows.to(motion_scale.device)]
                if isinstance(motion_scale, Tensor)
                else motion_scale
            )
            counted = torch.tensor(weights, dtype=frames.dtype, device=frames.device)[:, None]
            positions = None if frame_positions is None else frame_positions[: len(window)]
            mixed = block.attend(frames[:, rows], positions, scale) * counted
            total, counts = total.index_add(1, rows, mixed), counts.index_add(0, rows, counted)
        return block.transform(total / counts)
