"""The temporal layer on tokens as the image U-Net lays them out: frames are never moved, only viewed.

Everything in the layer but its attention looks at one token at a time, so the order of tokens is free. Kept
as `(b f) (h w) c` they need no transposing around the attention: each head at each place is one row of a
strided view.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from video_diffusion.acceleration.attention import scaled_dot_product_attention
from video_diffusion.acceleration.compiling import compiled
from video_diffusion.models.temporal_attention import TemporalAttention
from video_diffusion.models.temporal_transformer import TemporalTransformer, TemporalTransformerBlock
from video_diffusion.shapes import FrameNumbers, unfold_frames

MAX_ROWS = 2**15
"""Rows of one attention call: CUDA kernels take less than 65536 in this place."""

Tokens = Float[Tensor, "bf hw c"]


def temporal_forward(
    module: TemporalTransformer,
    hidden_states: Float[Tensor, "bf c h w"],
    num_frames: int,
    frame_positions: Tensor | None = None,
    motion_scale: FrameNumbers = 1.0,
    *rare: Any,
    run_block: Callable[..., Tokens] | None = None,
) -> Float[Tensor, "bf c h w"]:
    """What `TemporalTransformer.forward` computes; `run_block` is how a block of it runs, if not as here.

    With a gradient, with a scale per frame and with any of the rare arguments (windows, a motion effect) the
    layer's own way is taken.
    """
    usual = all(value is None or (isinstance(value, int | float) and value == 1) for value in rare)
    if not usual or torch.is_grad_enabled() or isinstance(motion_scale, Tensor):
        how = (num_frames, frame_positions, motion_scale, *rare)
        return type(module).forward(module, hidden_states, *how)
    height, width = hidden_states.shape[-2:]
    tokens = module.proj_in(_normalised_tokens(module, hidden_states, num_frames))
    for block in module.transformer_blocks:
        assert isinstance(block, TemporalTransformerBlock)
        tokens = (run_block or _block)(block, tokens, num_frames, frame_positions, motion_scale)
    return hidden_states + rearrange(module.proj_out(tokens), "bf (h w) c -> bf c h w", h=height, w=width)


def compiled_temporal_forward(
    module: TemporalTransformer, hidden_states: Float[Tensor, "bf c h w"], *how: Any
) -> Float[Tensor, "bf c h w"]:
    """Likewise, with blocks that PyTorch compiles."""
    return temporal_forward(module, hidden_states, *how, run_block=compiled(_block))


def _normalised_tokens(
    module: TemporalTransformer, hidden_states: Float[Tensor, "bf c h w"], num_frames: int
) -> Tokens:
    """Frames normalised, as tokens: a view where each frame is normalised alone, else one copy."""
    if module.norm_scope == "frame":
        return rearrange(module.norm(hidden_states), "bf c h w -> bf (h w) c")
    clips = module.norm(unfold_frames(hidden_states, num_frames))
    return rearrange(clips, "b c f h w -> (b f) (h w) c")


def _block(
    block: TemporalTransformerBlock,
    tokens: Tokens,
    num_frames: int,
    frame_positions: Tensor | None,
    motion_scale: float,
) -> Tokens:
    rows = block.pos_embed.rows(num_frames, frame_positions)
    for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
        positioned = norm(tokens).unflatten(0, (-1, num_frames)).add_(rows[:, None]).flatten(0, 1)
        tokens += _attend(attention, positioned, num_frames, motion_scale)
    tokens += block.ff(block.norm3(tokens))
    return tokens


def _attend(attention: TemporalAttention, tokens: Tokens, num_frames: int, motion_scale: float) -> Tokens:
    """Self-attention along frames; every head at every place is one row of a view."""
    query, key, value = (
        rearrange(project(tokens), "(b f) hw (k d) -> b (hw k) f d", f=num_frames, k=attention.num_heads)
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    if motion_scale != 1:
        query = query * motion_scale
    attended = [
        scaled_dot_product_attention(*rows)
        for rows in zip(*(torch.split(t, MAX_ROWS, dim=1) for t in (query, key, value)), strict=True)
    ]
    joined = attended[0] if len(attended) == 1 else torch.cat(attended, dim=1)
    return attention.to_out(rearrange(joined, "b (hw k) f d -> (b f) hw (k d)", k=attention.num_heads))
