"""Self-attention along the frames of a video, and the sinusoidal table that tells frames apart.

Names of parameters and buffers are those diffusers' `MotionAdapter` stores, so that weights pass both ways.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from video_diffusion.shapes import FrameNumbers, FramePositions


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
    """Multi-head self-attention in which every place of the picture attends along its own frames.

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
        """Attend along the frames of each site (a site is one place of the picture in one video).

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
