import pytest
import torch
from einops import rearrange
from tiny_models import randomised, relative_error
from torch import Tensor

from video_diffusion.models import NormScope
from video_diffusion.models.temporal import TemporalTransformer, TemporalTransformerBlock

NUM_VIDEOS, NUM_FRAMES, CHANNELS, GROUPS = 2, 3, 8, 4


def transformer(norm_scope: NormScope, num_layers: int = 1) -> TemporalTransformer:
    torch.manual_seed(0)
    layer = TemporalTransformer(
        num_channels=CHANNELS,
        num_heads=2,
        num_layers=num_layers,
        num_groups=GROUPS,
        num_positions=7,
        norm_scope=norm_scope,
    )
    return randomised(layer).double()


def feature_maps() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(NUM_VIDEOS * NUM_FRAMES, CHANNELS, 5, 4, dtype=torch.float64)


def layer_norm(values: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    deviation = values - values.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def block_by_hand(block: TemporalTransformerBlock, frames: Tensor) -> Tensor:
    positions = block.pos_embed.pe[:, : frames.shape[1]]
    frames = frames + block.attn1(layer_norm(frames, block.norm1) + positions)
    frames = frames + block.attn2(layer_norm(frames, block.norm2) + positions)
    first, last = block.ff.net[0].proj, block.ff.net[2]
    values, gate = (layer_norm(frames, block.norm3) @ first.weight.T + first.bias).chunk(2, dim=-1)
    gelu = gate * (1 + torch.erf(gate / 2**0.5)) / 2
    return frames + (values * gelu) @ last.weight.T + last.bias


def formula(layer: TemporalTransformer, maps: Tensor, norm_scope: str) -> Tensor:
    """x + proj_out(blocks(proj_in(group norm of x))), the group norm written out for both scopes."""
    video = rearrange(maps, "(b f) (g c) h w -> b f g c h w", f=NUM_FRAMES, g=GROUPS)
    pooled = (3, 4, 5) if norm_scope == "frame" else (1, 3, 4, 5)
    deviation = video - video.mean(pooled, keepdim=True)
    normalised = deviation / (deviation.square().mean(pooled, keepdim=True) + 1e-6).sqrt()
    normalised = rearrange(normalised, "b f g c h w -> b f h w (g c)") * layer.norm.weight + layer.norm.bias
    frames = rearrange(normalised, "b f h w c -> (b h w) f c") @ layer.proj_in.weight.T + layer.proj_in.bias
    for block in layer.transformer_blocks:
        frames = block_by_hand(block, frames)
    frames = frames @ layer.proj_out.weight.T + layer.proj_out.bias
    return maps + rearrange(frames, "(b h w) f c -> (b f) c h w", b=NUM_VIDEOS, h=5)


@pytest.mark.parametrize("norm_scope", ["frame", "clip"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_layer_is_the_formula(norm_scope: NormScope, num_layers: int) -> None:
    layer = transformer(norm_scope, num_layers)
    assert (
        relative_error(layer(feature_maps(), NUM_FRAMES), formula(layer, feature_maps(), norm_scope)) <= 1e-12
    )


def test_the_norm_scopes_differ() -> None:
    frame, clip = (transformer(scope)(feature_maps(), NUM_FRAMES) for scope in ("frame", "clip"))
    assert relative_error(frame, clip) > 1e-3


def test_frames_of_other_videos_are_not_seen() -> None:
    layer, maps = transformer("clip"), feature_maps()
    changed = maps.clone()
    changed[NUM_FRAMES:] += 1
    before, after = layer(maps, NUM_FRAMES), layer(changed, NUM_FRAMES)
    assert torch.equal(before[:NUM_FRAMES], after[:NUM_FRAMES])
    assert not torch.allclose(before[NUM_FRAMES:], after[NUM_FRAMES:])


def test_a_fresh_layer_is_the_identity() -> None:
    layer = TemporalTransformer(
        num_channels=8, num_heads=2, num_layers=1, num_groups=4, num_positions=7, norm_scope="frame"
    ).double()
    assert torch.equal(layer(feature_maps(), NUM_FRAMES), feature_maps())


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 8 channels"):
        TemporalTransformer(
            num_channels=8, num_heads=3, num_layers=1, num_groups=4, num_positions=7, norm_scope="frame"
        )


def test_the_effect_scales_what_the_layer_adds() -> None:
    layer, maps = transformer("clip"), feature_maps()
    added = layer(maps, NUM_FRAMES) - maps
    assert relative_error(layer(maps, NUM_FRAMES, motion_effect=0.5), maps + 0.5 * added) <= 1e-12
    assert torch.equal(layer(maps, NUM_FRAMES, motion_effect=0.0), maps)
    effect = torch.tensor([1.0, 0.0, 2.0])
    expected = maps + added * effect.double().repeat(NUM_VIDEOS)[:, None, None, None]
    assert relative_error(layer(maps, NUM_FRAMES, motion_effect=effect), expected) <= 1e-12
