"""Known frames: every scheduler ends at them, the others are left to the model."""

from typing import Any

import pytest
import torch
from tiny_models import SCHEDULER_CONFIG, relative_error
from torch import Tensor

from video_diffusion.sampling import SCHEDULERS, Anchored, NoiseLevels, denoise, make_scheduler

SHAPE = (2, 3, 5, 4, 6)
KNOWN = torch.randn(1, *SHAPE[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def model(latents: Tensor, timestep: Tensor) -> Tensor:
    return latents * 0.5


def config(prediction_type: str, **changes: Any) -> dict[str, Any]:
    return {**SCHEDULER_CONFIG, "prediction_type": prediction_type, **changes}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_right_prediction_is_the_one_that_leaves_the_known_frame(prediction_type: str) -> None:
    levels = NoiseLevels(config(prediction_type))
    weights = torch.tensor([1.0, 0.25, 0.0, 0.0, 1.0])
    share = levels.alphas_cumprod(500.0)
    assert 0.01 < share < 0.99
    noisy = share**0.5 * KNOWN + (1 - share) ** 0.5 * NOISE
    velocity = share**0.5 * NOISE - (1 - share) ** 0.5 * KNOWN
    right = {"epsilon": NOISE, "v_prediction": velocity, "sample": KNOWN.expand(SHAPE)}[prediction_type]
    found = Anchored(model, KNOWN, weights, levels)(noisy, torch.tensor(500))
    blend = weights.double()[:, None, None] ** (1 / (1 - share))
    assert relative_error(found, (1 - blend) * model(noisy, torch.tensor(0)) + blend * right) <= 1e-12


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_scheduler_ends_at_the_known_frame(scheduler: str, prediction_type: str) -> None:
    own = config(prediction_type)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    anchored = Anchored(model, KNOWN, weights, NoiseLevels(own))
    made = make_scheduler(scheduler, own)
    *_, last = denoise(anchored, made, NOISE, 12, [3, 4])
    *_, free = denoise(model, make_scheduler(scheduler, own), NOISE, 12, [3, 4])
    assert relative_error(last.latents[:, :, 0], KNOWN.expand(SHAPE)[:, :, 0]) < 0.05
    assert relative_error(last.latents[:, :, 1:], free.latents[:, :, 1:]) <= 1e-12


def test_levels_are_the_schedule_and_lines_between_its_timesteps() -> None:
    levels = NoiseLevels(config("epsilon"))
    table = make_scheduler("ddpm", SCHEDULER_CONFIG).alphas_cumprod.double()
    assert levels.alphas_cumprod(7.0) == pytest.approx(float(table[7]))
    assert levels.alphas_cumprod(7.5) == pytest.approx(float(table[7] + table[8]) / 2)
    assert levels.last_alphas_cumprod == pytest.approx(float(table[-1]))
