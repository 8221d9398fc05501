"""What a video U-Net is told besides its latents: timesteps, positions, labels, pictures, a LoRA's scale."""

import pytest
import torch
from peft import LoraConfig
from tiny_models import relative_error, tiny_adapter, tiny_unet
from video_inputs import NUM_VIDEOS, frame_by_frame, inputs

from video_diffusion.models import MotionAdapter, VideoUNet


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
