"""Attention of the image U-Net without what repeats: prompts are projected once, and not once per frame."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from video_diffusion.acceleration.prompt_cache import KeysAndValues, PromptCache

MAX_SCORES = 10_000_000
"""Scores, over all heads, up to which two matrix products beat the fused kernel in bfloat16 on a CPU."""


class OncePerPrompt:
    """Does what diffusers' `AttnProcessor2_0` does, for layers that `fits` approves.

    Cross attention reads keys and values from the cache, and all frames of a video that share a prompt ask it
    together, as one long row of queries. With a gradient or a mask diffusers' own processor runs.

    Args:
        cache: Of the running video passes.
    """

    def __init__(self, cache: PromptCache) -> None:
        self.cache = cache
        self.plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend; arguments as diffusers hands them to a processor."""
        crosses = encoder_hidden_states is not None
        if (
            torch.is_grad_enabled()
            or attention_mask is not None
            or hidden_states.ndim != 3
            or (crosses and self.cache.num_frames == 0)  # the image model, called as itself
        ):
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query = attn.to_q(hidden_states)
        if encoder_hidden_states is None:
            key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        else:
            key, value = self._of_prompt(attn, encoder_hidden_states)
        # Queries of the frames that share keys become one row: no copy, since frames lie side by side.
        asked = query.view(len(key), -1, query.shape[-1])
        attended = scaled_dot_product_attention(*(_split_heads(t, attn.heads) for t in (asked, key, value)))
        merged = rearrange(attended, "b k n d -> b n (k d)").view(query.shape)
        return attn.to_out[1](attn.to_out[0](merged))

    def _of_prompt(self, attn: Any, embeds: Float[Tensor, "bf n d"]) -> KeysAndValues:
        shared = embeds[:: self.cache.num_frames]  # the same for all frames of a video

        def make() -> KeysAndValues:
            return attn.to_k(shared), attn.to_v(shared)

        # A LoRA's scale may change from pass to pass.
        plain = type(attn.to_k) is nn.Linear and type(attn.to_v) is nn.Linear
        return self.cache.keys_and_values(attn, make) if plain else make()


def fits(attn: nn.Module) -> bool:
    """Whether a module is an attention whose processor and options are the usual ones."""
    return (
        isinstance(attn, Attention)
        and type(attn.processor) is AttnProcessor2_0
        and attn.spatial_norm is None
        and attn.group_norm is None
        and not attn.norm_cross
        and attn.norm_q is None
        and attn.norm_k is None
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
    )


def scaled_dot_product_attention(
    query: Float[Tensor, "b k q d"], key: Float[Tensor, "b k n d"], value: Float[Tensor, "b k n d"]
) -> Float[Tensor, "b k q d"]:
    """PyTorch's fused attention; on a CPU in bfloat16, while scores are few, two matrix products.

    The fused CPU kernel converts bfloat16 piece by piece, which costs more than it saves on short sequences.
    """
    num_scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or num_scores > MAX_SCORES:
        return functional.scaled_dot_product_attention(query, key, value)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return scores.softmax(-1) @ value


def _split_heads(tensor: Float[Tensor, "b n kd"], num_heads: int) -> Float[Tensor, "b k n d"]:
    return rearrange(tensor, "b n (k d) -> b k n d", k=num_heads)
