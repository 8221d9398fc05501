"""Numbers over the steps of a run: found by timestep, for any scheduler, however often a step asks."""

from typing import Any

import pytest
import torch
from tiny_models import SCHEDULER_CONFIG, relative_error
from torch import Tensor

from video_diffusion.sampling import (
    SCHEDULERS,
    AlongSteps,
    Guided,
    StepNumbers,
    denoise,
    guidance_is_off,
    make_scheduler,
    start_run,
    steps_done,
)

EMBEDS = torch.zeros(1, 2, 3, dtype=torch.float64)


def prompted(latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: Any) -> Tensor:
    return 0.1 * latents * prompt_embeds[:, 0, 0].reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("run", [(4,), (6, 0.7), (3, 0.5, True)])
def test_each_step_asks_with_its_own_number(name: str, run: tuple[Any, ...]) -> None:
    scheduler = make_scheduler(name, SCHEDULER_CONFIG)
    count = steps_done(*run)
    numbers = StepNumbers(scheduler, [10.0 + k for k in range(count)], *run)
    seen: list[float] = []

    def denoiser(latents: Tensor, timestep: Tensor) -> Tensor:
        seen.append(numbers.at(timestep))
        return 0.1 * latents

    noise = torch.randn(1, 1, 2, 3, 4)
    known = None if len(run) == 1 else torch.zeros(1, 1, 2, 3, 4)
    for _ in range(2):  # as FreeInit begins again
        seen.clear()
        list(denoise(denoiser, scheduler, noise, run[0], [3], known, *run[1:]))
        if name == "heun":  # asks at the start of a step and again at its end, where the next one begins
            expected = [10.0, *(10.0 + k for k in range(1, count) for _ in range(2))]
        else:
            expected = [10.0 + k for k in range(count)]
        assert seen == expected


def test_guidance_follows_the_steps() -> None:
    scheduler = make_scheduler("ddim", SCHEDULER_CONFIG)
    numbers = StepNumbers(scheduler, [7.0, 1.0, 0.0], 3)
    latents = torch.randn(1, 1, 2, 3, 4, dtype=torch.float64)
    guided = Guided(prompted, EMBEDS + 2, EMBEDS + 1, numbers)
    _, timesteps = start_run(scheduler, 3)
    for timestep, scale in zip(timesteps, (7.0, 1.0, 0.0), strict=True):
        expected = 0.1 * latents + scale * 0.1 * latents
        assert relative_error(guided(latents, timestep), expected) <= 1e-12


def test_guidance_is_off_only_where_every_step_says_so() -> None:
    scheduler = make_scheduler("ddim", SCHEDULER_CONFIG)
    assert guidance_is_off(StepNumbers(scheduler, [1.0, 1.0, 1.0], 3))
    assert not guidance_is_off(StepNumbers(scheduler, [1.0, 1.0, 1.5], 3))


def test_conditions_follow_the_steps_and_others_stay() -> None:
    seen: list[dict[str, Any]] = []

    def model(latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: Any) -> Tensor:
        seen.append(conditions)
        return latents

    scheduler = make_scheduler("ddim", SCHEDULER_CONFIG)
    along = AlongSteps(model, {"motion_scale": StepNumbers(scheduler, [2.0, 0.5], 2)})
    _, timesteps = start_run(scheduler, 2)
    for timestep in timesteps:
        along(torch.zeros(1, 1, 2, 3, 4), timestep, EMBEDS, motion_scale=1.0, motion_effect=0.3)
    assert seen == [{"motion_scale": 2.0, "motion_effect": 0.3}, {"motion_scale": 0.5, "motion_effect": 0.3}]
