"""Gradients of a video U-Net: recomputed ones are equal ones, and bfloat16 stays near float32."""

import pytest
import torch
from tiny_models import TEXT_WIDTH, randomised, tiny_adapter, tiny_unet
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from video_inputs import inputs

from video_diffusion.models import VideoUNet


def gradients(video_unet: VideoUNet, **more: object) -> dict[str, Tensor]:
    video_unet.zero_grad()
    video_unet(*inputs(), **more).square().mean().backward()
    return {name: p.grad.clone() for name, p in video_unet.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("blocks", ["mixed", "attention"])
def test_checkpointing_gives_equal_gradients(blocks: str) -> None:
    unet = randomised(tiny_unet(blocks, layers_per_block=2))
    video_unet = VideoUNet(unet, tiny_adapter(unet, num_transformer_layers=2)).train()
    positions = torch.tensor([0, 2, 4, 6, 8])
    expected = gradients(video_unet, frame_positions=positions)
    assert len(expected) == len(list(video_unet.parameters()))
    video_unet.enable_gradient_checkpointing()
    found = gradients(video_unet, frame_positions=positions)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpointing_recomputes_every_part_of_temporal_blocks_exactly_once() -> None:
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet)).train()
    video_unet.enable_gradient_checkpointing()
    calls: dict[str, int] = {}
    for name, module in video_unet.motion_adapter.named_modules():
        if name.endswith((".attn1", ".attn2", ".ff")):
            module.register_forward_pre_hook(
                lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1)
            )
    prediction = video_unet(*inputs())
    forward = dict(calls)
    prediction.sum().backward()
    assert set(forward.values()) == {1}
    assert set(calls.values()) == {2}


def test_checkpointing_repeats_no_convolution() -> None:
    unet = tiny_unet(layers_per_block=2)
    video_unet = VideoUNet(unet, tiny_adapter(unet)).train()
    unet.requires_grad_(False)

    def convolutions() -> int:
        with FlopCounterMode(display=False) as flops:
            gradients(video_unet)
        return flops.get_flop_counts()["Global"][torch.ops.aten.convolution]

    expected = convolutions()
    video_unet.enable_gradient_checkpointing()
    assert convolutions() == expected


def test_checkpointing_with_windows_and_pooled_norms_gives_equal_gradients() -> None:
    unet = randomised(tiny_unet())
    adapter = tiny_adapter(unet)
    adapter.register_to_config(resnet_norm_scope="clip")
    video_unet = VideoUNet(unet, adapter).train()
    windows = [((0, 1, 2), (1.0, 2.0, 1.0)), ((2, 3, 4), (1.0, 2.0, 1.0))]
    expected = gradients(video_unet, frame_windows=windows)
    video_unet.enable_gradient_checkpointing()
    found = gradients(video_unet, frame_windows=windows)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_passes_before_one_backward_keep_their_own_frames() -> None:
    """The recomputation must see the frames of its own pass, not those of the last one."""
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet)).train()

    def both_passes() -> list[Tensor]:
        video_unet.zero_grad()
        losses = [video_unet(*inputs(num_frames)).square().mean() for num_frames in (5, 3)]
        sum(losses).backward()
        return [parameter.grad.clone() for parameter in video_unet.parameters()]

    expected = both_passes()
    video_unet.enable_gradient_checkpointing()
    assert all(torch.equal(found, wanted) for found, wanted in zip(both_passes(), expected, strict=True))


def test_checkpointing_switched_on_before_attaching_is_taken_over() -> None:
    unet = tiny_unet()
    unet.enable_gradient_checkpointing()
    video_unet = VideoUNet(unet, tiny_adapter(unet)).train()
    found = gradients(video_unet)
    video_unet.disable_gradient_checkpointing()
    expected = gradients(video_unet)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpointing_switched_on_behind_our_back_is_refused() -> None:
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    unet.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="enable_gradient_checkpointing\\(\\) of the VideoUNet"):
        video_unet(*inputs())
    assert video_unet.detach().is_gradient_checkpointing
    unet(torch.randn(1, 4, 6, 4), 5, torch.randn(1, 7, TEXT_WIDTH)).sample.sum().backward()


def test_training_under_bfloat16_autocast_stays_near_float32() -> None:
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet)).train()
    expected = gradients(video_unet)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(video_unet)
    assert found.keys() == expected.keys()
    flat_found, flat_expected = (
        torch.cat([g.flatten() for g in each.values()]) for each in (found, expected)
    )
    assert float(torch.cosine_similarity(flat_found, flat_expected, dim=0)) > 0.99
