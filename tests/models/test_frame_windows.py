"""Temporal attention in windows: right for every length, equal to diffusers where that is right."""

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock, FreeNoiseTransformerBlock
from einops import rearrange
from tiny_models import randomised, relative_error, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.models import VideoUNet
from video_diffusion.models.temporal import TemporalTransformer
from video_diffusion.sampling import ContextWindows
from video_diffusion.shapes import FrameWindow


def windows_of(num_frames: int, length: int, stride: int) -> list[FrameWindow]:
    division = ContextWindows(num_frames, length, length - stride, schedule="static")
    return [(window, division.weights(window)) for window in division.at(0)]


def layer(num_positions: int = 16) -> TemporalTransformer:
    torch.manual_seed(0)
    return TemporalTransformer(
        num_channels=8,
        num_heads=2,
        num_layers=1,
        num_groups=4,
        num_positions=num_positions,
        norm_scope="frame",
    ).double()


def maps(num_frames: int, num_videos: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_videos * num_frames, 8, 2, 3, dtype=torch.float64, generator=generator)


def silent(temporal: TemporalTransformer) -> TemporalTransformer:
    """Attention and feed-forward add nothing, projections pass everything: only the averaging is left."""
    for block in temporal.transformer_blocks:
        for part in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
            part.weight.data.zero_()
            part.bias.data.zero_()
    for projection in (temporal.proj_in, temporal.proj_out):
        projection.weight.data.copy_(torch.eye(8))
        projection.bias.data.zero_()
    return temporal


@pytest.mark.parametrize("num_frames", range(17, 71))
def test_weights_add_up_to_one_for_every_length(num_frames: int) -> None:
    """Where diffusers 0.42 scales the last frames down: to 0.5 at 18 frames, to 0.333 at 19 and 23."""
    temporal = silent(layer())
    expected = maps(num_frames) + temporal.norm(maps(num_frames))
    found = temporal(maps(num_frames), num_frames, frame_windows=windows_of(num_frames, 16, 4))
    assert relative_error(found, expected) <= 1e-12


@pytest.mark.parametrize(("num_frames", "stride"), [(11, 3), (12, 2), (7, 7), (13, 4)])
def test_windows_are_averaged_by_weight(num_frames: int, stride: int) -> None:
    """The formula written out: two videos at once, a last window shifted back, then the feed-forward."""
    temporal = randomised(layer(7)).double()
    frames = rearrange(temporal.norm(maps(num_frames, 2)), "(b f) c h w -> (b h w) f c", b=2)
    frames, block = temporal.proj_in(frames), temporal.transformer_blocks[0]
    total, counts = torch.zeros_like(frames), torch.zeros(num_frames, dtype=torch.float64)
    starts = sorted({*range(0, num_frames - 7, stride), num_frames - 7})
    for start in starts:
        mixed = block.attend(frames[:, start : start + 7])
        for k, weight in enumerate((1, 2, 3, 4, 3, 2, 1)):
            total[:, start + k] += weight * mixed[:, k]
            counts[start + k] += weight
    out = temporal.proj_out(block.transform(total / counts[:, None]))
    expected = maps(num_frames, 2) + rearrange(out, "(b h w) f c -> (b f) c h w", b=2, h=2)
    found = temporal(maps(num_frames, 2), num_frames, frame_windows=windows_of(num_frames, 7, stride))
    assert relative_error(found, expected) <= 1e-12


def test_equals_diffusers_where_windows_end_with_the_clip() -> None:
    temporal = randomised(layer()).double()
    ours = temporal.transformer_blocks[0]
    common = {
        "activation_fn": "geglu", "attention_bias": False, "double_self_attention": True,
        "positional_embeddings": "sinusoidal", "num_positional_embeddings": 16,
    }  # fmt: skip
    theirs = FreeNoiseTransformerBlock(
        8, 2, 4, context_length=8, context_stride=4, weighting_scheme="pyramid", **common
    ).double()
    theirs.load_state_dict({**BasicTransformerBlock(8, 2, 4, **common).state_dict(), **ours.state_dict()})
    frames = torch.randn(3, 20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = theirs(frames)
    found = temporal._run_in_windows(ours, frames, None, 1.0, windows_of(20, 8, 4))
    assert relative_error(found, expected) <= 1e-12


def test_one_window_is_no_windows() -> None:
    temporal = randomised(layer()).double()
    assert (
        relative_error(temporal(maps(9), 9, frame_windows=windows_of(9, 16, 4)), temporal(maps(9), 9))
        <= 1e-12
    )


def test_a_video_unet_takes_clips_longer_than_its_table() -> None:
    unet = tiny_unet().double()
    model = VideoUNet(unet, tiny_adapter(unet))
    latents = torch.randn(1, 4, 13, 6, 10, dtype=torch.float64)
    embeds, timestep = torch.randn(1, 7, 12, dtype=torch.float64), torch.tensor(20)
    windows = windows_of(13, 8, 2)
    found = model(latents, timestep, embeds, frame_windows=windows, motion_scale=torch.ones(13))
    assert relative_error(found, model(latents, timestep, embeds, frame_windows=windows)) <= 1e-12
    with pytest.raises(
        ValueError, match=r"frame_windows must hold every frame of 0…12 .* but frame 12 is miss"
    ):
        model(latents, timestep, embeds, frame_windows=windows_of(12, 8, 2))
    with pytest.raises(ValueError, match=r"but frame 13 is beyond the clip"):
        model(latents, timestep, embeds, frame_windows=windows_of(14, 8, 2))
    with pytest.raises(ValueError, match="num_frames is 10 but this motion adapter knows 9 positions"):
        model(latents, timestep, embeds, frame_windows=windows_of(13, 10, 2))


def test_gradients_pass_through_windows() -> None:
    temporal = randomised(layer()).double()
    frames = maps(18).requires_grad_()
    temporal(frames, 18, frame_windows=windows_of(18, 16, 4)).square().sum().backward()
    assert frames.grad is not None
    assert bool(frames.grad.flatten(1).abs().sum(1).min() > 0)
