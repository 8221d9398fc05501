"""Temporal layers come onto an image U-Net and off again; where they sit, and which adapters fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tiny_models import randomised, relative_error, tiny_adapter, tiny_unet
from video_inputs import frame_by_frame, inputs

from video_diffusion.models import MotionAdapter, VideoUNet


def test_a_fresh_adapter_is_the_identity() -> None:
    unet = randomised(tiny_unet(layers_per_block=2)).double()
    expected = frame_by_frame(unet, *inputs(dtype=torch.float64))
    video_unet = VideoUNet(unet, MotionAdapter.for_unet(unet, num_attention_heads=2))
    assert relative_error(video_unet(*inputs(dtype=torch.float64)), expected) <= 1e-12


def test_detaching_restores_the_image_model_bit_for_bit() -> None:
    unet = tiny_unet()
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    keys = set(vars(unet)), [set(vars(module)) for module in unet.modules()]
    latents, timestep, prompt_embeds = inputs()
    expected = unet(latents[:, :, 0], timestep, prompt_embeds).sample
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    assert relative_error(video_unet(latents, timestep, prompt_embeds)[:, :, 0], expected) > 1e-2
    assert video_unet.detach() is unet
    assert torch.equal(unet(latents[:, :, 0], timestep, prompt_embeds).sample, expected)
    assert unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    assert not any(module._forward_hooks for module in unet.modules())
    assert keys == (set(vars(unet)), [set(vars(module)) for module in unet.modules()])


def test_the_context_manager_detaches_even_after_an_error() -> None:
    unet = tiny_unet()
    with pytest.raises(KeyError), VideoUNet(unet, tiny_adapter(unet)) as video_unet:
        video_unet(*inputs())
        raise KeyError
    assert not any(module._forward_hooks for module in unet.modules())
    with video_unet:
        video_unet(*inputs())
    with pytest.raises(ValueError, match="detached"):
        video_unet(*inputs())


def test_the_attached_image_model_can_still_be_called_as_itself() -> None:
    unet = tiny_unet()
    latents, timestep, prompt_embeds = inputs()
    expected = unet(latents[:, :, 0], timestep, prompt_embeds).sample
    VideoUNet(unet, tiny_adapter(unet))
    assert torch.equal(unet(latents[:, :, 0], timestep, prompt_embeds).sample, expected)


def test_one_frame_is_the_image_model_and_gives_the_adapter_no_gradient() -> None:
    unet = tiny_unet()
    latents, timestep, prompt_embeds = inputs(num_frames=1)
    expected = unet(latents[:, :, 0], timestep, prompt_embeds).sample
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    picture = video_unet(latents, timestep, prompt_embeds)
    assert torch.equal(picture[:, :, 0], expected)
    picture.sum().backward()
    assert all(parameter.grad is None for parameter in video_unet.motion_adapter.parameters())
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_a_mid_block_without_attention_is_extended_after_its_first_resnet() -> None:
    unet = tiny_unet(mid_block_type="UNetMidBlock2D")
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    assert any(module._forward_hooks for module in unet.mid_block.resnets[:1])
    assert video_unet(*inputs()).shape == inputs()[0].shape


def test_a_unet_without_mid_block_gets_an_adapter_without_one() -> None:
    unet = tiny_unet(mid_block_type=None)
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    assert video_unet.motion_adapter.mid_block is None
    assert video_unet(*inputs()).shape == inputs()[0].shape
    with pytest.raises(ValueError, match="this U-Net has no mid block"):
        VideoUNet(tiny_unet(mid_block_type=None), tiny_adapter(tiny_unet()))


def test_an_adapter_for_another_unet_is_refused() -> None:
    unet = tiny_unet()
    with pytest.raises(ValueError, match=r"block_out_channels \(8, 16, 24\), but this U-Net has \(8, 16\)"):
        VideoUNet(unet, tiny_adapter(tiny_unet("three")))
    with pytest.raises(ValueError, match=r"2 temporal layers in down.0, but this U-Net has 1"):
        VideoUNet(unet, tiny_adapter(tiny_unet(layers_per_block=2)))
    assert not any(module._forward_hooks for module in unet.modules())


def test_a_unet_carries_one_adapter_at_a_time() -> None:
    unet = tiny_unet()
    first = VideoUNet(unet, tiny_adapter(unet))
    with pytest.raises(ValueError, match="detach\\(\\) that one first"):
        VideoUNet(unet, tiny_adapter(unet))
    first.detach()
    assert VideoUNet(unet, tiny_adapter(unet)).is_attached


def test_nothing_is_copied() -> None:
    unet: UNet2DConditionModel = tiny_unet()
    adapter = tiny_adapter(unet)
    video_unet = VideoUNet(unet, adapter)
    assert {id(p) for p in video_unet.parameters()} == {
        id(p) for m in (unet, adapter) for p in m.parameters()
    }


@pytest.mark.full
def test_the_graph_compiles_whole() -> None:
    """In a process of its own: the shape checks of the test run are not traceable; users have none."""
    program = """
import torch
from tiny_models import TEXT_WIDTH, tiny_adapter, tiny_unet
from video_diffusion.models import VideoUNet

unet = tiny_unet()
video_unet = VideoUNet(unet, tiny_adapter(unet))
conditions = torch.randn(2, 4, 5, 6, 10), torch.tensor([20, 700]), torch.randn(2, 7, TEXT_WIDTH)
compiled = torch.compile(video_unet, backend="eager", fullgraph=True)
with torch.no_grad():
    assert torch.allclose(compiled(*conditions), video_unet(*conditions), atol=1e-5)
print("whole")
"""
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout == "whole\n", done.stderr
