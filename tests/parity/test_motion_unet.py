"""The video U-Net with `norm_scope="clip"` against diffusers' UNetMotionModel, in float64."""

from itertools import pairwise

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers_pipelines import diffusers_adapter
from tiny_models import TEXT_WIDTH, randomised, relative_error, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.models import VideoUNet

TOLERANCE = 1e-12


def both(
    blocks: str = "mixed", layers: int = 1, mid: bool = True, **unet_settings
) -> tuple[VideoUNet, UNetMotionModel]:
    """Our video U-Net and diffusers' with the same weights."""
    unet = randomised(tiny_unet(blocks, **unet_settings)).double()
    adapter = tiny_adapter(unet, num_transformer_layers=layers, use_mid_block=mid, norm_scope="clip")
    motion_unet = UNetMotionModel.from_unet2d(unet, diffusers_adapter(adapter)).eval()
    return VideoUNet(unet, adapter), motion_unet


def inputs(num_videos: int, num_frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    latents = torch.randn(num_videos, 4, num_frames, height, width, dtype=torch.float64)
    timestep = torch.linspace(3, 950, num_videos).long()
    return latents, timestep, torch.randn(num_videos, 7, TEXT_WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("mid", [True, False], ids=["mid block", "no mid block"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("blocks", "shape"),
    [("mixed", (2, 5, 6, 10)), ("attention", (3, 2, 8, 4)), ("three", (1, 9, 12, 5))],
    ids=["two blocks", "attention in all blocks", "three blocks, odd width"],
)
def test_equals_diffusers(blocks: str, shape: tuple[int, int, int, int], layers: int, mid: bool) -> None:
    ours, theirs = both(blocks, layers, mid)
    latents, timestep, prompt_embeds = inputs(*shape)
    expected = theirs(latents, timestep, prompt_embeds.repeat_interleave(shape[1], 0)).sample
    assert relative_error(ours(latents, timestep, prompt_embeds), expected) <= TOLERANCE


def test_gradients_equal_diffusers() -> None:
    ours, theirs = both(layers=2, layers_per_block=2)
    latents, timestep, prompt_embeds = inputs(2, 3, 6, 4)
    ours(latents, timestep, prompt_embeds).square().mean().backward()
    theirs(latents, timestep, prompt_embeds.repeat_interleave(3, 0)).sample.square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    found = [*ours.unet.named_parameters(), *ours.motion_adapter.named_parameters()]
    assert {name for name, _ in found} == set(expected)
    for name, parameter in found:
        assert float((parameter.grad - expected[name]).abs().max()) <= TOLERANCE * scale, name


def test_per_frame_prompts_equal_diffusers() -> None:
    ours, theirs = both()
    latents, timestep, _ = inputs(2, 3, 4, 6)
    prompt_embeds = torch.randn(2, 3, 7, TEXT_WIDTH, dtype=torch.float64)
    expected = theirs(latents, timestep, prompt_embeds.flatten(0, 1)).sample
    assert relative_error(ours(latents, timestep, prompt_embeds), expected) <= TOLERANCE


def test_sdxl_conditions_equal_diffusers() -> None:
    ours, theirs = both(
        addition_embed_type="text_time",
        addition_time_embed_dim=3,
        projection_class_embeddings_input_dim=5 + 6 * 3,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    # UNetMotionModel.from_unet2d forgets these weights (diffusers 0.42.1): its SDXL conditions start random.
    theirs.add_embedding.load_state_dict(ours.unet.add_embedding.state_dict())
    latents, _, prompt_embeds = inputs(2, 3, 6, 4)
    conditions = {
        "text_embeds": torch.randn(2, 5, dtype=torch.float64),
        "time_ids": torch.rand(2, 6, dtype=torch.float64),
    }
    expected = theirs(
        latents, 500, prompt_embeds.repeat_interleave(3, 0), added_cond_kwargs=conditions
    ).sample
    assert (
        relative_error(ours(latents, 500, prompt_embeds, added_cond_kwargs=conditions), expected) <= TOLERANCE
    )


def test_controlnet_residuals_equal_diffusers() -> None:
    ours, theirs = both()
    controlnet = randomised(
        ControlNetModel.from_unet(ours.unet, conditioning_embedding_out_channels=(16, 8))
    ).double()
    latents, timestep, prompt_embeds = inputs(2, 3, 6, 4)
    folded_latents = latents.transpose(1, 2).flatten(0, 1)
    folded_embeds = prompt_embeds.repeat_interleave(3, 0)
    image = torch.rand(6, 3, 12, 8, dtype=torch.float64)
    down, mid = controlnet(
        folded_latents, timestep.repeat_interleave(3), folded_embeds, image, return_dict=False
    )
    expected = theirs(
        latents,
        timestep,
        folded_embeds,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    assert relative_error(ours(latents, timestep, prompt_embeds, **residuals), expected) <= TOLERANCE
    unfolded = {
        "down_block_additional_residuals": [item.unflatten(0, (2, 3)).transpose(1, 2) for item in down],
        "mid_block_additional_residual": mid.unflatten(0, (2, 3)).transpose(1, 2),
    }
    assert relative_error(ours(latents, timestep, prompt_embeds, **unfolded), expected) <= TOLERANCE


def test_different_frames_are_told_apart() -> None:
    """Guards the tests above: with these weights the temporal layers do change the picture."""
    ours, _ = both()
    latents, timestep, prompt_embeds = inputs(1, 5, 6, 4)
    still = latents[:, :, :1].expand(-1, -1, 5, -1, -1)
    frames = ours(still, timestep, prompt_embeds).unbind(2)
    assert all(relative_error(later, earlier) > 1e-3 for earlier, later in pairwise(frames))
