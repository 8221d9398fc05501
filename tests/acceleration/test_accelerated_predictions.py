"""An accelerated video U-Net predicts what it predicted before."""

from typing import Any

import pytest
import torch
from counting import count_operations
from peft import LoraConfig
from small_passes import (
    NUM_FRAMES,
    NUM_TOKENS,
    NUM_VIDEOS,
    latents_of,
    prompts_of,
    root_mean_square_error,
    video_unet,
)
from tiny_models import TEXT_WIDTH, randomised, relative_error
from torch import Tensor, nn

from video_diffusion.acceleration import accelerate_unet
from video_diffusion.sampling import ContextWindows, Guided, Windowed

PASSES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "a prompt for each video": ((torch.tensor([20, 700]), prompts_of()), {}),
    "a prompt for each frame": ((torch.tensor(500), prompts_of(NUM_FRAMES)), {}),
    "positions and a motion scale": (
        (500, prompts_of()),
        {"frame_positions": torch.tensor([0, 2, 3, 5, 8]), "motion_scale": 1.7},
    ),
    "a motion scale for each frame": (
        (500, prompts_of()),
        {"motion_scale": torch.tensor([0.5, 1.0, 1.5, 2.0, 0.7])},
    ),
    "windows in the temporal layers": (
        (500, prompts_of()),
        {"frame_windows": [((0, 1, 2), (1.0, 1.0, 0.5)), ((2, 3, 4), (0.5, 1.0, 1.0))]},
    ),
}


@pytest.mark.parametrize("scope", ["frame", "clip"])
@pytest.mark.parametrize("name", PASSES)
@torch.no_grad()
def test_predictions_stay_the_same_in_float64(name: str, scope: str) -> None:
    model, (args, more) = video_unet(scope=scope), PASSES[name]
    expected = model(latents_of(), *args, **more)
    with accelerate_unet(model):
        first = model(latents_of(), *args, **more)
        again = model(latents_of(), *args, **more)
    assert relative_error(first, expected) <= 1e-12
    assert torch.equal(again, first)
    assert torch.equal(model(latents_of(), *args, **more), expected)


@pytest.mark.parametrize("blocks", ["attention", "three"])
@torch.no_grad()
def test_predictions_stay_the_same_in_float32_up_to_rounding(blocks: str) -> None:
    model = video_unet(torch.float32, blocks)
    args = latents_of(dtype=torch.float32), 500, prompts_of(dtype=torch.float32)
    expected = model(*args)
    with accelerate_unet(model):
        assert root_mean_square_error(model(*args), expected) <= 1e-5


@torch.no_grad()
def test_bfloat16_drifts_no_further_from_float64_than_it_did() -> None:
    model, args = video_unet(), (latents_of(), 500, prompts_of())
    exact = model(*args)
    nn.Module.to(model, torch.bfloat16)
    half = [each.bfloat16() if isinstance(each, Tensor) else each for each in args]
    before = root_mean_square_error(model(*half), exact)
    with accelerate_unet(model):
        after = root_mean_square_error(model(*half), exact)
    assert 0 < after <= 1.25 * before  # of this tiny model; docs/benchmarks.md has real widths


@torch.no_grad()
def test_one_frame_and_the_image_model_itself_stay_what_they_were() -> None:
    model = video_unet()
    picture, prompt = latents_of(1), prompts_of()
    expected = model(picture, 500, prompt)
    image = model.unet(picture[:, :, 0], 500, prompt).sample
    with accelerate_unet(model):
        model(latents_of(), 500, prompts_of(seed=9))
        assert relative_error(model(picture, 500, prompt), expected) <= 1e-12
        assert relative_error(model.unet(picture[:, :, 0], 500, prompt).sample, image) <= 1e-12


@torch.no_grad()
def test_another_prompt_is_another_prediction_whoever_holds_its_tensor() -> None:
    model = video_unet()
    expected = {seed: model(latents_of(), 500, prompts_of(seed=seed)) for seed in (5, 6, 7)}
    with accelerate_unet(model):
        for seed in (5, 6, 5, 7, 6):
            assert relative_error(model(latents_of(), 500, prompts_of(seed=seed)), expected[seed]) <= 1e-12
        prompt = prompts_of(seed=5)
        model(latents_of(), 500, prompt)
        prompt.copy_(prompts_of(seed=6))
        assert relative_error(model(latents_of(), 500, prompt), expected[6]) <= 1e-12


@torch.no_grad()
def test_guided_windows_with_travelling_prompts_stay_the_same() -> None:
    model = video_unet()
    windows = ContextWindows(num_frames=9, length=5, overlap=2)
    prompts = prompts_of(9), prompts_of(9, seed=8)

    def predict() -> list[Tensor]:
        guided = Guided(Windowed(model, windows), *prompts, 2.5)
        return [guided(latents_of(9), torch.tensor(timestep)) for timestep in (900, 500, 100)]

    expected = predict()
    with accelerate_unet(model):
        found = predict()
    assert all(relative_error(*pair) <= 1e-12 for pair in zip(found, expected, strict=True))


@torch.no_grad()
def test_a_lora_obeys_its_scale_from_pass_to_pass() -> None:
    model = video_unet()
    lora = LoraConfig(r=3, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    model.unet.add_adapter(lora)
    nn.Module.double(model)
    args = latents_of(), 500, prompts_of()
    expected = {scale: model(*args, cross_attention_kwargs={"scale": scale}) for scale in (1.0, 0.3)}
    assert relative_error(expected[0.3], expected[1.0]) > 1e-3
    with accelerate_unet(model):
        for scale in (1.0, 0.3, 1.0):
            found = model(*args, cross_attention_kwargs={"scale": scale})
            assert relative_error(found, expected[scale]) <= 1e-12


@torch.no_grad()
def test_image_prompts_go_on_through_their_own_processors() -> None:
    model = video_unet(encoder_hid_dim_type="image_proj", encoder_hid_dim=6)
    model.unet.encoder_hid_proj = randomised(nn.Linear(6, TEXT_WIDTH)).double()
    conditions = {"image_embeds": torch.randn(NUM_VIDEOS, NUM_TOKENS, 6, dtype=torch.float64)}

    def predict(factor: float) -> Tensor:
        embeds = {"image_embeds": factor * conditions["image_embeds"]}
        return model(latents_of(), 500, prompts_of(), added_cond_kwargs=embeds)

    expected = [predict(factor) for factor in (1, 2)]
    with accelerate_unet(model):
        found = [predict(factor) for factor in (1, 2)]
    assert all(relative_error(*pair) <= 1e-12 for pair in zip(found, expected, strict=True))


def test_with_a_gradient_everything_is_plain_bit_for_bit() -> None:
    model = video_unet(torch.float32)
    args = latents_of(dtype=torch.float32), 500, prompts_of(dtype=torch.float32)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(*args).square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = gradients()
    with accelerate_unet(model):
        found = gradients()
    assert len(found) == len(expected) > 0
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@torch.no_grad()
def test_whole_models_of_few_pixels_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, args = video_unet(blocks="three"), (latents_of(), 500, prompts_of())
    expected = model(*args)
    monkeypatch.setattr("video_diffusion.acceleration.kernels.MAX_PIXELS_PER_CHANNEL", 1e9)
    with accelerate_unet(model):
        assert count_operations(lambda: model(*args))["aten.convolution"] == 0
        assert relative_error(model(*args), expected) <= 1e-12


@torch.no_grad()
def test_videos_one_by_one_keep_their_own_prompts() -> None:
    model = video_unet()
    args = latents_of(), 500, prompts_of()
    expected = model(*args)
    model.one_by_one = True
    with accelerate_unet(model):
        assert relative_error(model(*args), expected) <= 1e-12
        assert relative_error(model(*args), expected) <= 1e-12
