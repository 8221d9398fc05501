"""A model asked window by window: against the sum written out, against one pass, in any order."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import relative_error, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.models import VideoUNet
from video_diffusion.sampling import ContextWindows, Guided, Windowed

TIMESTEP = torch.tensor(20)


def inputs(num_frames: int, per_frame: bool = False) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    latents = torch.randn(2, 4, num_frames, 6, 10, dtype=torch.float64)
    frames = (num_frames,) if per_frame else ()
    return latents, torch.randn(2, *frames, 7, 12, dtype=torch.float64)


def clip_mean(latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: Any) -> Tensor:
    """Answers with something that depends on all frames it sees, on their order and on their prompts."""
    order = torch.arange(1, latents.shape[2] + 1, dtype=latents.dtype)[:, None, None]
    prompt = prompt_embeds.mean((-1, -2))
    prompt = prompt[:, None, :, None, None] if prompt.ndim == 2 else prompt[:, None, None, None, None]
    return latents * order + latents.mean(2, keepdim=True) + prompt


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("fuse", ["pyramid", "flat", "linear"])
def test_predictions_are_averaged_by_weight(fuse: Any, per_frame: bool) -> None:
    latents, embeds = inputs(13, per_frame)
    division = ContextWindows(13, 5, 2, schedule="static", fuse=fuse)
    total, counts = torch.zeros_like(latents), torch.zeros(13, dtype=torch.float64)
    for window in division.at(0):
        answer = clip_mean(latents[:, :, window], TIMESTEP, embeds[:, list(window)] if per_frame else embeds)
        for place, (frame, weight) in enumerate(zip(window, division.weights(window), strict=True)):
            total[:, :, frame] += weight * answer[:, :, place]
            counts[frame] += weight
    expected = total / counts[:, None, None]
    assert relative_error(Windowed(clip_mean, division)(latents, TIMESTEP, embeds), expected) <= 1e-12


def test_one_window_is_no_windows() -> None:
    unet = tiny_unet().double()
    model = VideoUNet(unet, tiny_adapter(unet))
    latents, embeds = inputs(5)
    windowed = Windowed(model, ContextWindows(5, 9, 3))
    assert torch.equal(windowed(latents, TIMESTEP, embeds), model(latents, TIMESTEP, embeds))
    assert windowed.window_starts == (0,)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["uniform", "uniform_looped", "static", "even"]))
def test_the_order_of_windows_changes_nothing_but_rounding(random: Any, schedule: Any) -> None:
    division = ContextWindows(17, 6, 3, 2, schedule)
    shuffled = list(division.at(0))
    random.shuffle(shuffled)

    class Shuffled(ContextWindows):
        def at(self, step: int) -> tuple[tuple[int, ...], ...]:
            return tuple(shuffled)

    other = Shuffled(17, 6, 3, 2, schedule)
    latents, embeds = inputs(17)
    found, expected = (Windowed(clip_mean, each)(latents, TIMESTEP, embeds) for each in (other, division))
    assert relative_error(found, expected) <= 1e-12


def test_a_model_that_looks_at_each_frame_alone_is_not_changed_by_windows() -> None:
    unet = tiny_unet().double()
    adapter = tiny_adapter(unet)
    for name, parameter in adapter.named_parameters():
        if ".proj_out." in name:
            parameter.data.zero_()
    model = VideoUNet(unet, adapter)
    latents, embeds = inputs(9, per_frame=True)
    windowed = Windowed(model, ContextWindows(9, 4, 1, 2))
    assert relative_error(windowed(latents, TIMESTEP, embeds), model(latents, TIMESTEP, embeds)) <= 1e-12


def test_windows_move_when_the_timestep_changes_and_only_then() -> None:
    division = ContextWindows(13, 5, 2)
    windowed = Windowed(clip_mean, division)
    latents, embeds = inputs(13)
    seen = []
    for timestep in (900, 900, 500, 100):
        windowed(latents, torch.tensor(timestep), embeds)
        seen.append(windowed.window_starts)
    assert seen == [division.starts(0), division.starts(0), division.starts(1), division.starts(2)]


def test_half_precision_is_averaged_in_float32() -> None:
    latents, embeds = inputs(13)
    division = ContextWindows(13, 5, 4, schedule="static", fuse="flat")

    def alternating(latents: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.full_like(latents, 1 + 2**-7)

    found = Windowed(alternating, division)(latents.bfloat16(), TIMESTEP, embeds)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.full_like(found, 1 + 2**-7))


def test_windows_inside_guidance_are_guidance_of_windows() -> None:
    division = ContextWindows(13, 5, 2, schedule="static")
    latents, embeds = inputs(13)
    inside = Guided(Windowed(clip_mean, division), embeds, embeds.flip(1) * 2, 3.0)(latents, TIMESTEP)
    negative, prompted = (
        Windowed(clip_mean, division)(latents, TIMESTEP, each) for each in (embeds.flip(1) * 2, embeds)
    )
    assert relative_error(inside, negative + 3 * (prompted - negative)) <= 1e-12


def test_conditions_per_frame_follow_their_frames() -> None:
    seen: list[Any] = []

    def model(latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: Any) -> Tensor:
        seen.append(conditions)
        return latents

    latents, embeds = inputs(7)
    scale = torch.arange(7.0)
    Windowed(model, ContextWindows(7, 4, 0, schedule="static"))(
        latents, TIMESTEP, embeds, motion_scale=scale, marker=3
    )
    assert [each["motion_scale"].tolist() for each in seen] == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert {each["marker"] for each in seen} == {3}


@pytest.mark.full
@given(st.integers(7, 200), st.sampled_from(["uniform", "uniform_looped", "static", "even", "batched"]))
def test_the_model_never_sees_more_than_a_window(num_frames: int, schedule: Any) -> None:
    """So memory does not grow with the length, latents aside."""
    seen: list[int] = []

    def model(latents: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(latents.shape[2])
        return latents

    latents = torch.randn(1, 1, num_frames, 1, 1)
    windowed = Windowed(model, ContextWindows(num_frames, 6, 2, 3, schedule))
    assert relative_error(windowed(latents, TIMESTEP, torch.zeros(1, 1, 1)), latents) <= 1e-6
    assert max(seen) <= 6
