"""An accelerated video U-Net computes what it computed before, does less for it, and comes off again."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny_models import TEXT_WIDTH, randomised, relative_error, tiny_adapter, tiny_unet
from torch import Tensor, nn

from video_diffusion.acceleration import accelerate_unet
from video_diffusion.acceleration.convolution import convolution_fits, convolution_forward
from video_diffusion.acceleration.counting import count_operations
from video_diffusion.acceleration.feed_forward import feed_forward
from video_diffusion.acceleration.linear import linear_forward, uses_onednn
from video_diffusion.models import VideoUNet
from video_diffusion.models.temporal_transformer import FeedForward
from video_diffusion.sampling import ContextWindows, Guided, Windowed

NUM_VIDEOS, NUM_FRAMES, NUM_TOKENS, HEIGHT, WIDTH = 2, 5, 7, 12, 8


def video_unet(
    dtype: torch.dtype = torch.float64, blocks: str = "mixed", scope: str = "frame", **changes: Any
) -> VideoUNet:
    unet = nn.Module.to(randomised(tiny_unet(blocks, **changes)), dtype)
    return VideoUNet(unet, tiny_adapter(unet, norm_scope=scope))


def latents_of(num_frames: int = NUM_FRAMES, dtype: torch.dtype = torch.float64, seed: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_VIDEOS, 4, num_frames, HEIGHT, WIDTH, dtype=dtype, generator=draw)


def prompts_of(*frames: int, dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_VIDEOS, *frames, NUM_TOKENS, TEXT_WIDTH, dtype=dtype, generator=draw)


def root_mean_square_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


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


def test_detaching_leaves_every_module_as_it_was_found() -> None:
    model = video_unet(torch.float32)
    before = [dict(vars(module)) for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    keys = list(model.state_dict())
    acceleration = accelerate_unet(model)
    assert [dict(vars(module)) for module in model.modules()] != before
    assert list(model.state_dict()) == keys
    assert acceleration.detach() is model
    after = [dict(vars(module)) for module in model.modules()]
    assert [set(each) for each in after] == [set(each) for each in before]
    assert all(
        new["processor"] is old["processor"]
        for new, old in zip(after, before, strict=True)
        if "processor" in old
    )
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks


def test_a_module_that_runs_another_forward_keeps_it() -> None:
    model = video_unet(torch.float32)
    layer = next(module for module in model.modules() if type(module) is nn.Linear)
    own = layer.forward = lambda hidden_states: hidden_states  # as accelerate's offloading does
    accelerate_unet(model).detach()
    assert layer.forward is own


@torch.no_grad()
def test_prompts_are_projected_once_for_each_layer() -> None:
    model = video_unet(torch.float32)
    rows: list[int] = []
    crossing = [m.attn2 for m in model.unet.modules() if getattr(m, "attn2", None) is not None]
    for attention in crossing:
        for layer in (attention.to_k, attention.to_v):
            layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    guided = Guided(model, prompts_of(dtype=torch.float32), prompts_of(dtype=torch.float32, seed=8), 2.5)
    with accelerate_unet(model):
        for timestep in (900, 600, 300):
            guided(latents_of(dtype=torch.float32), torch.tensor(timestep))
    # Two layers each, once, for the prompts and negative prompts of the two videos: frames do not count.
    assert rows == [2 * NUM_VIDEOS] * (2 * len(crossing))


@torch.no_grad()
def test_nothing_is_divided_by_one_and_temporal_layers_copy_nothing() -> None:
    model = video_unet(torch.float32)
    args = latents_of(dtype=torch.float32), torch.tensor(500), prompts_of(dtype=torch.float32)
    plain = count_operations(lambda: model(*args))
    with accelerate_unet(model):
        fast = count_operations(lambda: model(*args))
    image = count_operations(lambda: model.unet(latents_of(1, torch.float32)[:, :, 0], *args[1:]))
    assert plain["aten.div by 1"] == image["aten.div by 1"] > 0  # temporal layers never did
    assert fast["aten.div by 1"] == 0
    assert fast["aten.div"] <= 1  # of the timestep embedding's frequencies
    num_layers = len([m for m in model.modules() if type(m).__name__ == "TemporalTransformer"])
    layer = next(m for m in model.modules() if type(m).__name__ == "TemporalTransformer")
    pixels = torch.randn(NUM_VIDEOS * NUM_FRAMES, layer.norm.num_channels, 3, 4)
    with accelerate_unet(model):
        copies = count_operations(lambda: layer(pixels, NUM_FRAMES))["aten.clone"]
    before = count_operations(lambda: layer(pixels, NUM_FRAMES))["aten.clone"]
    assert copies <= 1 < before  # pictures to tokens, where the linear map does not do it on the way
    assert num_layers > 1


@torch.no_grad()
def test_linear_maps_by_onednn_equal_torch_up_to_rounding() -> None:
    layer = nn.Linear(48, 37)
    rows = torch.randn(3, 5, 48)
    assert root_mean_square_error(linear_forward(layer, rows), layer(rows)) <= 1e-6
    strided = torch.randn(3, 48, 5).transpose(1, 2)
    assert root_mean_square_error(linear_forward(layer, strided), layer(strided)) <= 1e-6
    assert not uses_onednn(torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": (3, 2), "padding": (2, 0), "dilation": (1, 2), "stride": (2, 1)},
    ],
)
@torch.no_grad()
def test_convolutions_of_few_pixels_equal_torch_up_to_rounding(
    dtype: torch.dtype, shape: dict[str, Any]
) -> None:
    layer = nn.Conv2d(5, 96, **shape).to(dtype)
    pictures = torch.randn(2, 5, 3, 7, dtype=dtype)
    assert convolution_fits(layer)
    operations = count_operations(lambda: convolution_forward(layer, pictures))
    assert operations["aten.convolution"] == 0
    found, expected = convolution_forward(layer, pictures), layer(pictures)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert root_mean_square_error(found, expected) <= (1e-14 if dtype == torch.float64 else 1e-6)
    many = torch.randn(40, 5, 3, 7, dtype=dtype)
    assert torch.equal(convolution_forward(layer, many), layer(many))


def test_unusual_convolutions_stay_as_they_are() -> None:
    assert not convolution_fits(nn.Conv2d(4, 6, 3, groups=2))
    assert not convolution_fits(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"))
    assert not convolution_fits(nn.Conv2d(4, 6, 3, padding="same"))
    assert not convolution_fits(nn.Conv1d(4, 6, 3))


@torch.no_grad()
def test_whole_models_of_few_pixels_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, args = video_unet(blocks="three"), (latents_of(), 500, prompts_of())
    expected = model(*args)
    monkeypatch.setattr("video_diffusion.acceleration.convolution.MAX_PIXELS_PER_CHANNEL", 1e9)
    with accelerate_unet(model):
        assert count_operations(lambda: model(*args))["aten.convolution"] == 0
        assert relative_error(model(*args), expected) <= 1e-12


@torch.no_grad()
def test_feed_forward_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FeedForward(16).double()
    tokens = torch.randn(3, 11, 16, dtype=torch.float64)
    expected = layer(tokens)
    for num_bytes in (1, 3 * 128 * 8, 2**25):
        monkeypatch.setattr("video_diffusion.acceleration.feed_forward.MAX_BYTES", num_bytes)
        assert relative_error(feed_forward(layer, tokens), expected) <= 1e-13


@torch.no_grad()
def test_videos_one_by_one_keep_their_own_prompts() -> None:
    model = video_unet()
    args = latents_of(), 500, prompts_of()
    expected = model(*args)
    model.one_by_one = True
    with accelerate_unet(model):
        assert relative_error(model(*args), expected) <= 1e-12
        assert relative_error(model(*args), expected) <= 1e-12
