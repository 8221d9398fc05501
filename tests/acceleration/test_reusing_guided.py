"""Shallow steps: right where they can be exact, cheap, and off again without a trace."""

import pytest
import torch
from counting import count_flops
from small_passes import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    latents_of,
    prompts_of,
    video_unet,
)
from tiny_models import relative_error
from torch import Tensor

from video_diffusion.acceleration import FeatureReuse, ReusingGuided, accelerate_unet
from video_diffusion.acceleration.feature_reuse import Line
from video_diffusion.models import VideoUNet
from video_diffusion.sampling import Guided

TIMESTEPS = (900.0, 800.0, 700.0, 600.0, 500.0)


def test_a_line_goes_through_its_last_two_points() -> None:
    line = Line()
    line.add(900.0, torch.tensor([1.0, 2.0]))
    assert torch.equal(line.at(700.0), torch.tensor([1.0, 2.0]))
    line.add(800.0, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(line.at(600.0), torch.tensor([4.0, -1.0]))
    line.add(800.0, torch.tensor([7.0, 7.0]))  # some schedulers ask twice at one timestep
    assert torch.equal(line.at(700.0), torch.tensor([7.0, 7.0]))
    line.add(700.0, torch.tensor([8.0, 5.0]))
    torch.testing.assert_close(line.at(650.0), torch.tensor([8.5, 4.0]))


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("blocks", ["mixed", "attention", "three"])
@torch.no_grad()
def test_a_shallow_pass_where_nothing_has_changed_is_the_full_pass(blocks: str, accelerated: bool) -> None:
    model = video_unet(blocks=blocks)
    latents, prompts = latents_of(), prompts_of()
    expected = model(latents, 500, prompts)
    acceleration = accelerate_unet(model) if accelerated else None
    reuse = FeatureReuse(model)
    with reuse.full_step(500.0):
        assert relative_error(model(latents, 500, prompts), expected) <= 1e-12
    with reuse.shallow_step(500.0):
        assert relative_error(model(latents, 500, prompts), expected) <= 1e-12
    with reuse.shallow_step(500.0):  # the last video alone, as guidance asks
        assert relative_error(model(latents[1:], 500, prompts[1:]), expected[1:]) <= 1e-12
    with reuse.shallow_step(500.0):
        assert relative_error(model(2 * latents, 500, prompts), expected) > 1e-3
    reuse.detach()
    if acceleration is not None:
        acceleration.detach()
    assert torch.equal(model(latents, 500, prompts), expected)
    assert not any("forward" in vars(module) for module in model.modules())
    assert len(model._forward_pre_hooks) == 0


def guided_run(model: VideoUNet, every: int, num_first: int, scale: float = 2.5) -> list[Tensor]:
    reuse = FeatureReuse(model)
    negative = prompts_of(seed=8)
    guided = ReusingGuided(reuse, every, num_first, model, prompts_of(), negative, scale)
    found = [guided(latents_of(seed=int(t)), torch.tensor(t)) for t in TIMESTEPS]
    reuse.detach()
    return found


@pytest.mark.full
@pytest.mark.parametrize("scale", [1.0, 2.5])
@torch.no_grad()
def test_full_steps_are_guidance_itself_and_the_others_are_near(scale: float) -> None:
    model = video_unet()
    plain = Guided(model, prompts_of(), prompts_of(seed=8), scale)
    expected = [plain(latents_of(seed=int(t)), torch.tensor(t)) for t in TIMESTEPS]

    def full_steps(every: int, num_first: int) -> list[bool]:
        pairs = zip(guided_run(model, every, num_first, scale), expected, strict=True)
        return [relative_error(*pair) <= 1e-12 for pair in pairs]

    assert full_steps(every=1, num_first=0) == [True] * 5
    assert full_steps(every=2, num_first=1) == [True, False, True, False, True]
    assert full_steps(every=3, num_first=2) == [True, True, False, False, True]


@torch.no_grad()
def test_a_second_run_knows_nothing_of_the_first() -> None:
    model = video_unet()
    reuse = FeatureReuse(model)
    guided = ReusingGuided(reuse, 2, 1, model, prompts_of(), prompts_of(seed=8), 2.5)

    def run() -> list[Tensor]:
        return [guided(latents_of(seed=int(t)), torch.tensor(t)) for t in TIMESTEPS]

    assert all(torch.equal(*pair) for pair in zip(run(), run(), strict=True))


def test_videos_one_by_one_are_refused() -> None:
    model = video_unet()
    model.one_by_one = True
    with pytest.raises(ValueError, match="low_memory"):
        FeatureReuse(model)
    assert not any("forward" in vars(module) for module in model.modules())


@torch.no_grad()
def test_each_window_of_a_step_has_features_of_its_own() -> None:
    model = video_unet()
    reuse = FeatureReuse(model)
    first, second, prompts = latents_of(seed=1), latents_of(3, seed=2), prompts_of()
    with reuse.full_step(500.0):
        expected = [model(window, 500, prompts) for window in (first, second)]
    with reuse.shallow_step(500.0):
        found = [model(window, 500, prompts) for window in (first, second)]
    assert all(relative_error(*pair) <= 1e-12 for pair in zip(found, expected, strict=True))


@pytest.mark.full
@torch.no_grad()
def test_a_shallow_step_of_stable_diffusion_takes_few_operations() -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from video_diffusion.models import MotionAdapter

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval()
        model = VideoUNet(unet, MotionAdapter())
        latents, prompts = torch.empty(2, 4, NUM_FRAMES, 2 * HEIGHT, 2 * WIDTH), torch.empty(2, 77, 768)
        timestep = torch.empty(())
        reuse = FeatureReuse(model)
        with reuse.full_step(500.0):
            full = count_flops(lambda: model(latents, timestep, prompts))
        with reuse.shallow_step(480.0):
            shallow = count_flops(lambda: model(latents, timestep, prompts))
        with reuse.shallow_step(480.0):
            prompted = count_flops(lambda: model(latents[1:], timestep, prompts[1:]))
    assert 0.01 * full < shallow <= 0.08 * full
    assert prompted == shallow / 2
