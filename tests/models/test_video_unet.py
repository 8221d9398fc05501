import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig
from tiny_models import TEXT_WIDTH, randomised, relative_error, tiny_adapter, tiny_unet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from video_diffusion.models import MotionAdapter, VideoUNet

NUM_VIDEOS, NUM_FRAMES = 2, 5


def inputs(num_frames: int = NUM_FRAMES, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    latents = torch.randn(NUM_VIDEOS, 4, num_frames, 6, 10, dtype=dtype)
    prompt_embeds = torch.randn(NUM_VIDEOS, 7, TEXT_WIDTH, dtype=dtype)
    return latents, torch.tensor([20, 700]), prompt_embeds


def frame_by_frame(unet: nn.Module, latents: Tensor, *conditions: Tensor, **more: object) -> Tensor:
    """The image model, once for each frame."""
    return torch.stack([unet(frame, *conditions, **more).sample for frame in latents.unbind(2)], dim=2)


def gradients(video_unet: VideoUNet, **more: object) -> dict[str, Tensor]:
    video_unet.zero_grad()
    video_unet(*inputs(), **more).square().mean().backward()
    return {name: p.grad.clone() for name, p in video_unet.named_parameters() if p.grad is not None}


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


def test_frame_positions_choose_rows_of_the_table() -> None:
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    first = video_unet(*inputs())
    assert torch.equal(video_unet(*inputs(), frame_positions=torch.arange(5)), first)
    assert relative_error(video_unet(*inputs(), frame_positions=torch.arange(5) * 2), first) > 1e-3


def test_reordering_frames_with_their_positions_reorders_the_prediction() -> None:
    unet = tiny_unet().double()
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    latents, timestep, prompt_embeds = inputs(dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = video_unet(latents, timestep, prompt_embeds)[:, :, order]
    found = video_unet(latents[:, :, order], timestep, prompt_embeds, frame_positions=order)
    assert relative_error(found, expected) <= 1e-12


def test_a_timestep_for_all_equals_one_for_each() -> None:
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    latents, _, prompt_embeds = inputs()
    expected = video_unet(latents, torch.tensor([37, 37]), prompt_embeds)
    for timestep in (37, torch.tensor(37)):
        assert torch.equal(video_unet(latents, timestep, prompt_embeds), expected)


def test_class_labels_are_one_per_video() -> None:
    unet = tiny_unet(num_class_embeds=11)
    latents, timestep, prompt_embeds = inputs()
    labels = torch.tensor([4, 9])
    expected = frame_by_frame(unet, latents, timestep, prompt_embeds, class_labels=labels)
    video_unet = VideoUNet(unet, MotionAdapter.for_unet(unet, num_attention_heads=2))
    assert relative_error(video_unet(latents, timestep, prompt_embeds, class_labels=labels), expected) < 1e-5


def test_a_lora_in_the_image_model_stays_at_work_and_obeys_its_scale() -> None:
    unet = tiny_unet().double()
    unet.add_adapter(LoraConfig(r=3, target_modules=["to_q", "to_out.0"], init_lora_weights=False))
    unet.double()
    conditions = inputs(dtype=torch.float64)
    full = frame_by_frame(unet, *conditions)
    half = frame_by_frame(unet, *conditions, cross_attention_kwargs={"scale": 0.5})
    video_unet = VideoUNet(unet, MotionAdapter.for_unet(unet, num_attention_heads=2))
    assert relative_error(full, half) > 1e-3
    assert relative_error(video_unet(*conditions), full) <= 1e-12
    kwargs = {"scale": 0.5}
    assert relative_error(video_unet(*conditions, cross_attention_kwargs=kwargs), half) <= 1e-12
    assert kwargs == {"scale": 0.5}


def test_image_prompts_are_one_per_video() -> None:
    """IP-Adapter's image embeddings come as a list of tensors, one for each adapter."""
    unet = tiny_unet(encoder_hid_dim_type="image_proj", encoder_hid_dim=6)
    latents, timestep, prompt_embeds = inputs()
    conditions = {"image_embeds": torch.randn(NUM_VIDEOS, 6)}
    expected = frame_by_frame(unet, latents, timestep, prompt_embeds, added_cond_kwargs=conditions)
    video_unet = VideoUNet(unet, MotionAdapter.for_unet(unet, num_attention_heads=2))
    found = video_unet(latents, timestep, prompt_embeds, added_cond_kwargs=conditions)
    assert relative_error(found, expected) < 1e-5


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


def test_more_frames_than_positions_is_a_clear_error() -> None:
    unet = tiny_unet()
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    with pytest.raises(ValueError) as caught:
        video_unet(*inputs(num_frames=10))
    assert str(caught.value) == (
        "num_frames is 10 but this motion adapter knows 9 positions; "
        "set context_length (--context-length) to 9 or less for longer clips"
    )


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 1, 2, 3], "holds 4 for 5 frames"),
        ([0, 2, 4, 6, 9], "must lie in 0…8, .* span 0…9"),
        ([-1, 0, 1, 2, 3], "span -1…3"),
    ],
)
def test_positions_outside_the_table_are_refused(positions: list[int], message: str) -> None:
    unet = tiny_unet()
    with pytest.raises(ValueError, match=message):
        VideoUNet(unet, tiny_adapter(unet))(*inputs(), frame_positions=torch.tensor(positions))


def test_a_condition_of_the_wrong_length_is_refused() -> None:
    unet = tiny_unet(num_class_embeds=11)
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    latents, timestep, prompt_embeds = inputs()
    conditions = {"image_embeds": [torch.randn(3, 6)]}
    with pytest.raises(
        ValueError, match=r"image_embeds must have one item per video \(2\) or per frame \(10\), but has 3"
    ):
        video_unet(latents, timestep, prompt_embeds, added_cond_kwargs=conditions)


def test_an_adapter_for_another_unet_is_refused() -> None:
    unet = tiny_unet()
    with pytest.raises(ValueError, match=r"block_out_channels \(8, 16, 24\), but this U-Net has \(8, 16\)"):
        VideoUNet(unet, tiny_adapter(tiny_unet("three")))
    with pytest.raises(ValueError, match=r"2 temporal layers in down_blocks.0, but this U-Net has 1"):
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
