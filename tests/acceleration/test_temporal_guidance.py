"""Temporal guidance against its formula, every answer of the model asked for alone; with what goes along."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_passes import latents_of, prompts_of, video_unet
from tiny_models import relative_error, save_tiny_model
from torch import Tensor

from video_diffusion.acceleration import FeatureReuse, ReusingGuided
from video_diffusion.models import VideoUNet
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import ContextWindows, Guided, Weaker, Windowed, temporal_guidance
from video_diffusion.settings import GenerationSettings

TIMESTEP = torch.tensor(500.0)


def reference(model: Any, latents: Tensor, scale: float, ahead: float, **conditions: Any) -> Tensor:
    """e_neg + w (e - e_neg) + s (e - e without temporal layers), each asked for in a pass of its own."""
    negative = model(latents, TIMESTEP, prompts_of(seed=8), **conditions)
    prompted = model(latents, TIMESTEP, prompts_of(), **conditions)
    alone = model(latents, TIMESTEP, prompts_of(), **conditions | {"motion_effect": 0.0})
    found: Tensor = negative + scale * (prompted - negative) + ahead * (prompted - alone)
    return found


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.5])
@torch.no_grad()
def test_it_is_the_formula(scale: float, one_by_one: bool) -> None:
    model = video_unet(scope="clip")
    model.one_by_one = one_by_one
    conditions = {"motion_effect": 0.8, "motion_scale": torch.tensor([1.0, 0.7, 1.2, 1.0, 0.9])}
    expected = reference(model, latents_of(), scale, 1.3, **conditions)
    negative = None if scale == 1 else prompts_of(seed=8)
    guided = Guided(model, prompts_of(), negative, scale, [temporal_guidance(1.3)], **conditions)
    assert relative_error(guided(latents_of(), TIMESTEP), expected) < 1e-12


@torch.no_grad()
def test_in_windows_too() -> None:
    model = video_unet()
    windows = ContextWindows(num_frames=8, length=4, overlap=2, schedule="static")
    expected = reference(Windowed(model, windows), latents_of(8), 3.5, 0.7)
    ask = (prompts_of(), prompts_of(seed=8), 3.5, [temporal_guidance(0.7)])
    assert relative_error(Guided(Windowed(model, windows), *ask)(latents_of(8), TIMESTEP), expected) < 1e-12


@torch.no_grad()
def test_full_steps_of_a_speed_level_are_exact_and_shallow_ones_draw_on() -> None:
    model = video_unet()
    ask = (model, prompts_of(), prompts_of(seed=8), 3.5, [temporal_guidance(1.3)])
    expected = Guided(*ask)(latents_of(), TIMESTEP)
    reuse = FeatureReuse(model)
    fast = ReusingGuided(reuse, 2, 1, *ask)
    assert relative_error(fast(latents_of(), torch.tensor(500.0)), expected) < 1e-12  # a full step
    # Where the latents have not changed, features and differences that are drawn on are the old ones.
    shallow = fast(latents_of(), torch.tensor(500.0))
    reuse.detach()
    assert relative_error(shallow, expected) < 1e-12


class Counting:
    """A model that answers with a number for each video, by what it is told to leave out."""

    def __call__(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: Any) -> Tensor:
        answer = torch.zeros(len(latents))
        answer += prompt_embeds.mean((1, 2))
        for place, name in enumerate(("image_videos", "no_attention"), start=1):
            for video in conditions.get(name, ()):
                answer[video] -= 10.0**place
        return answer[:, None, None, None, None].expand_as(latents).clone()


def test_several_weaker_answers_share_one_pass_and_each_has_its_scale() -> None:
    prompt, negative = torch.full((2, 3, 4), 5.0), torch.full((2, 3, 4), 3.0)
    weaker = [temporal_guidance(0.5), Weaker(2.0, "no_attention")]
    guided = Guided(Counting(), prompt, negative, 4.0, weaker)
    found = guided(torch.zeros(2, 1, 2, 2, 2), TIMESTEP)
    assert torch.allclose(found, torch.tensor(3.0 + 4 * 2 + 0.5 * 10 + 2 * 100))


def clip(pipeline: TextToVideoPipeline, **values: Any) -> np.ndarray:
    usual = {"prompt": "a red ball", "num_frames": 4, "height": 16, "width": 24, "num_inference_steps": 4}
    (video,) = pipeline.generate([GenerationSettings.from_values({**usual, "guidance_scale": 4.0, **values})])
    return video.frames


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", norm_scope="frame")


def test_the_setting_reaches_the_clip_and_zero_is_off(model: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(model), dtype="float64", device="cpu")
    plain, guided = clip(pipeline), clip(pipeline, temporal_guidance=1.5)
    assert np.array_equal(clip(pipeline, temporal_guidance=0.0), plain)
    assert not np.array_equal(guided, plain)
    low = TextToVideoPipeline.from_pretrained(str(model), dtype="float64", device="cpu", low_memory=True)
    assert np.array_equal(clip(low, temporal_guidance=1.5), guided)
    fast = clip(pipeline, temporal_guidance=1.5, speed=1)
    assert np.abs(fast.astype(float) - guided).mean() < np.abs(plain.astype(float) - guided).mean()
    within = clip(pipeline, temporal_guidance=1.5, guidance_interval=(0.0, 1.0))
    assert np.array_equal(within, guided)
    outside = clip(pipeline, temporal_guidance=1.5, guidance_scale=1.0, guidance_interval=(0.4, 0.41))
    assert np.array_equal(outside, clip(pipeline, guidance_scale=1.0))


def test_where_it_can_do_nothing_it_says_so_and_costs_nothing(model: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(model), "none", dtype="float64", device="cpu")
    batches: list[int] = []
    pipeline.parts.unet.conv_in.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    with pytest.warns(UserWarning, match="temporal_guidance is ignored without temporal layers"):
        clip(pipeline, temporal_guidance=1.5)
    assert set(batches) == {8}


@torch.no_grad()
def test_image_videos_pass_as_with_a_motion_effect_of_zero() -> None:
    unet: VideoUNet = video_unet()
    latents, prompts = latents_of(), prompts_of()
    found = unet(latents, 500, prompts, image_videos=(1,))
    both, neither = unet(latents, 500, prompts), unet(latents, 500, prompts, motion_effect=0.0)
    assert relative_error(found[:1], both[:1]) < 1e-12
    assert relative_error(found[1:], neither[1:]) < 1e-12
    assert relative_error(unet(latents, 500, prompts, image_videos=(0, 1)), neither) < 1e-12
