"""Faster ways through the same modules: each computes what the module does, in less time or memory."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward as SpatialFeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from video_diffusion.models.temporal import (
    FeedForward,
    GatedGelu,
    TemporalTransformer,
    TemporalTransformerBlock,
)
from video_diffusion.shapes import FrameNumbers, FrameWindow, unfold_frames

# Linear maps through oneDNN's kernels, where PyTorch would take slower ones.
#
# PyTorch sends float32 linear maps on CPUs to MKL, which reaches two fifths of an AMD core's speed. oneDNN
# comes along for PyTorch's compiler and reaches nearly all of it, on the same weights as they lie. Sums are
# then split another way, so results differ in the last bits. bfloat16 runs through the same oneDNN kernel
# either way, bit for bit, with less around it.


def linear_forward(module: nn.Linear, hidden_states: Tensor) -> Tensor:
    """What `nn.Linear.forward` computes."""
    return linear_map(hidden_states, module.weight, module.bias)


def linear_map(hidden_states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `torch.nn.functional.linear` computes."""
    if not runs_onednn(weight, hidden_states):
        return functional.linear(hidden_states, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, "none", [], "")


def runs_onednn(weight: Tensor, hidden_states: Tensor) -> bool:
    """Whether this call goes to oneDNN: on a CPU, without a gradient and outside autocast."""
    return (
        # kinds of tensors with rules of their own, such as 8-bit weights, know PyTorch's operators alone
        type(hidden_states) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and hidden_states.device.type == "cpu"
        and hidden_states.dtype == weight.dtype
        and uses_onednn(hidden_states.dtype)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


@torch.compiler.assume_constant_result  # the compiler cannot read files
def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether linear maps of this precision go to oneDNN on this machine's CPU.

    Decided by the processor's maker, not by a stopwatch: the same machine must always give the same bits.
    """
    return _uses_onednn(dtype)


@cache
def _uses_onednn(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 and processor_maker() == "AuthenticAMD"


def processor_maker() -> str:
    """The processor's vendor as Linux tells it, such as "AuthenticAMD"; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


# Convolutions of small feature maps as one matrix product, on weights as they lie.
#
# On CPUs oneDNN lays the weights of a convolution out anew in every call. Deep in a U-Net, where a map has a
# few pixels and thousands of channels, that takes several times as long as the arithmetic. Written out as
# rows, one for each pixel with all that its kernel sees, the map is small, and its product with the weights
# needs no other layout.


MAX_PIXELS_PER_CHANNEL = 0.5
"""Pixels, of all images, for each output channel, up to which the product is the faster one.

Rows to write out grow with pixels, weights to lay out with output channels. On an Intel Xeon with AMX, while
others used it too, the product is 1.3 to 9 times as fast at 0.05 to 0.2, 1.4 times at 0.8 in bfloat16, and
slower from 1.6 on.
"""


def convolution_forward(
    module: nn.Conv2d, maps: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c_out h_out w_out"]:
    """What `nn.Conv2d.forward` computes, for layers that `convolution_fits` approves."""
    padding = module.padding
    assert not isinstance(padding, str)  # `convolution_fits` has seen to it
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    height, width = (
        (side + 2 * pad - dilate * (size - 1) - 1) // step + 1
        for side, pad, dilate, size, step in zip(
            maps.shape[-2:], padding, dilation, kernel, stride, strict=True
        )
    )
    num_pixels = len(maps) * height * width
    if (
        torch.is_grad_enabled()
        or maps.device.type != "cpu"
        or num_pixels > MAX_PIXELS_PER_CHANNEL * module.out_channels
    ):
        return type(module).forward(module, maps)
    rows = functional.unfold(maps, kernel, dilation, padding, stride).transpose(1, 2)
    convolved = linear_map(rows, module.weight.flatten(1), module.bias)
    return convolved.transpose(1, 2).reshape(len(maps), -1, height, width).contiguous()


def convolution_fits(module: nn.Module) -> bool:
    """Whether a module is a plain convolution: one group, and zeros around the map."""
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


# Feed-forward layers a few tokens at a time, with the gate inside the matrix product where oneDNN runs.
#
# A feed-forward layer makes eight numbers of one: at 512x512 pixels and 16 frames its middle is the largest
# tensor of the whole U-Net. Tokens do not see each other there, so it never has to exist as a whole.


MAX_BYTES = 2**25
"""Of the middle of a feed-forward layer at a time."""


def feed_forward(
    module: SpatialFeedForward | FeedForward, hidden_states: Tensor, *args: object, **more: object
) -> Tensor:
    """What the two `FeedForward` classes compute, in pieces of whole rows; with a gradient their own."""
    if torch.is_grad_enabled():
        return type(module).forward(module, hidden_states, *args, **more)
    first: GEGLU = module.net[0]
    width = first.proj.out_features
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    num_rows = max(MAX_BYTES // (width * tokens.element_size()), 1)
    pieces = [module.net[2](first(piece)) for piece in torch.split(tokens, num_rows)]
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return whole.view(*hidden_states.shape[:-1], whole.shape[-1])


def feed_forward_fits(module: nn.Module) -> bool:
    """Whether a module is a feed-forward layer with a GEGLU, the image U-Net's or a temporal layer's."""
    if type(module) is not SpatialFeedForward:
        return type(module) is FeedForward
    # a dropout may follow, and an activation of another kind may lead
    layers = list(module.get_submodule("net").children())
    return len(layers) == 3 and gated_gelu_fits(layers[0]) and not module.training


def gated_gelu(module: GEGLU | GatedGelu, hidden_states: Tensor, *args: object, **more: object) -> Tensor:
    """What `GEGLU` and `GatedGelu` compute; with a gradient their own."""
    if torch.is_grad_enabled():
        return type(module).forward(module, hidden_states, *args, **more)
    proj = module.proj
    if type(proj) is nn.Linear and proj.bias is not None and runs_onednn(proj.weight, hidden_states):
        kernel = torch.ops.mkldnn._linear_pointwise
        (values, gate), (values_bias, gate_bias) = proj.weight.chunk(2), proj.bias.chunk(2)
        gates = kernel(hidden_states, gate, gate_bias, "gelu", [], "none")
        return kernel.binary(hidden_states, gates, values, values_bias, "mul")
    made, gate = proj(hidden_states).chunk(2, dim=-1)
    return functional.gelu(gate).mul_(made)


def gated_gelu_fits(module: nn.Module) -> bool:
    """Whether a module is a GEGLU, the image U-Net's or a temporal layer's."""
    return type(module) in {GEGLU, GatedGelu}


# The image U-Net's resnets without steps that change nothing.


def resnet_forward(
    module: ResnetBlock2D, input_tensor: Tensor, temb: Tensor, *args: object, **more: object
) -> Tensor:
    """What `ResnetBlock2D.forward` computes for layers that `is_plain_resnet` approves.

    Activations and sums are written over tensors that nobody else holds, and the result is not divided by 1.
    """
    if torch.is_grad_enabled():
        return type(module).forward(module, input_tensor, temb, *args, **more)
    hidden_states = module.conv1(functional.silu(module.norm1(input_tensor), inplace=True))
    hidden_states += module.time_emb_proj(functional.silu(temb))[:, :, None, None]
    hidden_states = module.conv2(functional.silu(module.norm2(hidden_states), inplace=True))
    shortcut = input_tensor if module.conv_shortcut is None else module.conv_shortcut(input_tensor)
    return hidden_states.add_(shortcut)


# Keys and values of prompts, projected once and kept for the steps that follow.


MAX_CACHE_BYTES = 2**28
"""Kept for all prompts together: SD 1.5's for 16 prompts in float32, or for one window of 16 frames' own."""

KeysAndValues: TypeAlias = tuple[Tensor, Tensor]


class PromptCache:
    """What every cross attention made of the prompts seen last.

    A prompt is known by its values, so it does not matter who cut or copied its embeddings. Weights must not
    change while the cache lives: it is made for one run.

    Attributes:
        num_frames: Frames that share a prompt in the running pass; 1 if each frame has its own, 0 outside a
            pass.
    """

    def __init__(self) -> None:
        self.num_frames = 0
        # embeddings, and what layers made of them; the last ones are those of the running pass
        self._prompts: list[tuple[Tensor, dict[nn.Module, KeysAndValues]]] = []

    def enter(self, prompt_embeds: Tensor, num_frames: int) -> None:
        """Begin a pass; `prompt_embeds` holds `b n d` or, with one prompt per frame, `b f n d`."""
        self.num_frames = num_frames if prompt_embeds.ndim == 3 else 1
        for place, (known, _) in enumerate(self._prompts):
            is_alike = (known.dtype, known.device) == (prompt_embeds.dtype, prompt_embeds.device)
            if is_alike and torch.equal(known, prompt_embeds):
                self._prompts.append(self._prompts.pop(place))
                return
        self._prompts.append((prompt_embeds.detach().clone(), {}))

    def leave(self) -> None:
        """End the pass."""
        self.num_frames = 0
        sizes = [sum(key.nbytes + value.nbytes for key, value in made.values()) for _, made in self._prompts]
        while len(sizes) > 1 and sum(sizes) > MAX_CACHE_BYTES:
            del sizes[0], self._prompts[0]

    def keys_and_values(self, attn: Attention, embeds: Float[Tensor, "bf n d"]) -> KeysAndValues:
        """What a layer makes of the running pass's prompts, one for each video or for each frame."""
        made = self._prompts[-1][1]
        if attn in made:
            return made[attn]
        shared = embeds[:: self.num_frames]  # the same for all frames of a video
        projected = attn.to_k(shared), attn.to_v(shared)
        if type(attn.to_k) is nn.Linear and type(attn.to_v) is nn.Linear:
            made[attn] = projected  # a LoRA's scale may change from pass to pass
        return projected


# Attention of the image U-Net without what repeats: prompts are projected once, and not once per frame.


MAX_SCORES = 10_000_000
"""Scores, over all heads, up to which two matrix products beat the fused kernel in bfloat16 on a CPU."""


class OncePerPrompt:
    """Does what diffusers' `AttnProcessor2_0` does, for layers that `attention_fits` approves.

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
        attn: Attention,
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
            key, value = self.cache.keys_and_values(attn, encoder_hidden_states)
        # Queries of the frames that share keys become one row: no copy, since frames lie side by side.
        heads = [
            rearrange(tensor, "b n (k d) -> b k n d", k=attn.heads)
            for tensor in (query.view(len(key), -1, query.shape[-1]), key, value)
        ]
        attended = scaled_dot_product_attention(*heads)
        merged = rearrange(attended, "b k n d -> b n (k d)").view(query.shape)
        return attn.to_out[1](attn.to_out[0](merged))


def attention_fits(attn: nn.Module) -> bool:
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


# The temporal layer on tokens as the image U-Net lays them out: frames are never moved, only viewed.
#
# Everything in the layer but its attention looks at one token at a time, so the order of tokens is free. Kept
# as `(b f) (h w) c` they need no transposing around the attention: each head at each place is one row of a
# strided view.


MAX_ROWS = 2**15
"""Rows of one attention call: CUDA kernels take less than 65536 in this place."""

Tokens = Float[Tensor, "bf hw c"]


def temporal_forward(
    module: TemporalTransformer,
    hidden_states: Float[Tensor, "bf c h w"],
    num_frames: int,
    frame_positions: Tensor | None = None,
    motion_scale: FrameNumbers = 1.0,
    frame_windows: Sequence[FrameWindow] | None = None,
    motion_effect: FrameNumbers = 1.0,
    run_block: Callable[..., Tokens] | None = None,
) -> Float[Tensor, "bf c h w"]:
    """What `TemporalTransformer.forward` computes; `run_block` is how a block of it runs, if not as here.

    With a gradient, with numbers per frame, with windows or a motion effect the layer's own way is taken.
    """
    has_effect = isinstance(motion_effect, Tensor) or motion_effect != 1
    if frame_windows is not None or has_effect or isinstance(motion_scale, Tensor) or torch.is_grad_enabled():
        return type(module).forward(
            module, hidden_states, num_frames, frame_positions, motion_scale, frame_windows, motion_effect
        )
    height, width = hidden_states.shape[-2:]
    if module.norm_scope == "frame":
        tokens = rearrange(module.norm(hidden_states), "bf c h w -> bf (h w) c")  # a view
    else:
        normalised = module.norm(unfold_frames(hidden_states, num_frames))
        tokens = rearrange(normalised, "b c f h w -> (b f) (h w) c")  # a copy
    tokens = module.proj_in(tokens)
    for block in module.transformer_blocks:
        assert isinstance(block, TemporalTransformerBlock)
        tokens = (run_block or temporal_block)(block, tokens, num_frames, frame_positions, motion_scale)
    return hidden_states + rearrange(module.proj_out(tokens), "bf (h w) c -> bf c h w", h=height, w=width)


def temporal_block(
    block: TemporalTransformerBlock,
    tokens: Tokens,
    num_frames: int,
    frame_positions: Tensor | None,
    motion_scale: float,
) -> Tokens:
    """What `TemporalTransformerBlock.forward` computes, over tokens that nobody else holds."""
    rows = block.pos_embed.rows(num_frames, frame_positions)
    for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
        positioned = norm(tokens).unflatten(0, (-1, num_frames)).add_(rows[:, None]).flatten(0, 1)
        num_heads = attention.num_heads  # every head at every place is one row of a view
        query, key, value = (
            rearrange(project(positioned), "(b f) hw (k d) -> b (hw k) f d", f=num_frames, k=num_heads)
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        if motion_scale != 1:
            query = query * motion_scale
        calls = zip(*(torch.split(heads, MAX_ROWS, dim=1) for heads in (query, key, value)), strict=True)
        attended = [scaled_dot_product_attention(*heads) for heads in calls]
        joined = attended[0] if len(attended) == 1 else torch.cat(attended, dim=1)
        tokens += attention.to_out(rearrange(joined, "b (hw k) f d -> (b f) hw (k d)", k=num_heads))
    tokens += block.ff(block.norm3(tokens))
    return tokens
