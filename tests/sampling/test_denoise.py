from itertools import islice

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedulers import NO_SIGNAL
from tiny_models import SCHEDULER_CONFIG
from torch import Tensor

from video_diffusion.sampling import (
    SCHEDULERS,
    DenoisingStep,
    NonFiniteLatentsError,
    denoise,
    initial_noise,
    make_scheduler,
)

SIZE = (3, 5, 7)
STOCHASTIC = ("ddpm", "euler_a", "dpmpp_sde", "lcm")


def noise(seeds: list[int], num_frames: int = 4) -> Tensor:
    return torch.stack([initial_noise(seed, num_frames, *SIZE) for seed in seeds])


class Curved:
    """A cheap prediction that depends on the latents and the time, frame by frame."""

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(latents + timestep / 1000) * 0.7


class Knowing:
    """Predicts exactly the noise, or velocity, of latents whose clean value is 0.5 everywhere."""

    def __init__(self, config: dict[str, object]) -> None:
        self.config = config
        self.alphas_cumprod = DDIMScheduler(**config).alphas_cumprod

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        signal = self.alphas_cumprod[round(float(timestep))]
        epsilon = (latents - 0.5 * signal.sqrt()) / (1 - signal).sqrt()
        if self.config["prediction_type"] == "epsilon":
            return epsilon
        return signal.sqrt() * epsilon - (1 - signal).sqrt() * 0.5


def last(steps: object) -> DenoisingStep:
    *_, step = steps
    return step


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("config", [SCHEDULER_CONFIG, NO_SIGNAL], ids=["epsilon", "velocity, no signal"])
@pytest.mark.parametrize("num_inference_steps", [1, 2, 8, 25])
def test_a_model_that_knows_the_answer_is_led_to_it(
    name: str, config: dict[str, object], num_inference_steps: int
) -> None:
    steps = list(
        denoise(Knowing(config), make_scheduler(name, config), noise([3, 8]), num_inference_steps, [3, 8])
    )
    assert [step.index for step in steps] == list(range(1, len(steps) + 1))
    assert {step.num_steps for step in steps} == {len(steps)}
    # LCM leads to a blend of the answer and the noise at t = 0; where the model was trained on pure noise,
    # some schedulers start from a signal of 2^-12, which their model would have to know.
    tolerance = 0.15 if name == "lcm" else 1e-3 if config is NO_SIGNAL else 1e-4
    assert float((steps[0].clean_latents - 0.5).abs().max()) < tolerance
    assert float((steps[-1].clean_latents - 0.5).abs().max()) < tolerance
    assert float((steps[-1].latents - 0.5).abs().max()) < tolerance


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_video_alone_equals_the_same_in_a_batch(name: str) -> None:
    seeds = [3, 8, 2**40]
    together = last(denoise(Curved(), make_scheduler(name, SCHEDULER_CONFIG), noise(seeds), 6, seeds))
    for place, seed in enumerate(seeds):
        alone = last(denoise(Curved(), make_scheduler(name, SCHEDULER_CONFIG), noise([seed]), 6, [seed]))
        assert torch.equal(alone.latents[0], together.latents[place])


@given(order=st.permutations([1, 22, 333]), cut=st.integers(1, 2), name=st.sampled_from(STOCHASTIC))
@settings(max_examples=20, deadline=None)
def test_order_and_split_of_a_batch_do_not_matter(order: list[int], cut: int, name: str) -> None:
    def run(seeds: list[int]) -> dict[int, Tensor]:
        steps = denoise(Curved(), make_scheduler(name, SCHEDULER_CONFIG), noise(seeds), 4, seeds)
        return dict(zip(seeds, last(steps).latents, strict=True))

    expected = run([1, 22, 333])
    found = run(order[:cut]) | run(order[cut:])
    assert all(torch.equal(found[seed], expected[seed]) for seed in expected)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_added_noise_is_prefix_stable(name: str) -> None:
    """A model that looks at frames one by one makes the first frames of a longer clip the shorter clip."""
    short, long = (
        last(denoise(Curved(), make_scheduler(name, SCHEDULER_CONFIG), noise([5], frames), 5, [5])).latents
        for frames in (3, 8)
    )
    assert torch.equal(long[:, :, :3], short)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_only_some_schedulers_add_noise_and_it_follows_the_seed(name: str) -> None:
    start = noise([3])
    first, second = (
        last(denoise(Curved(), make_scheduler(name, SCHEDULER_CONFIG), start, 6, [seed])).latents
        for seed in (3, 4)
    )
    assert torch.equal(first, second) == (name not in STOCHASTIC)


def test_half_precision_latents_are_refused() -> None:
    """Torch draws other values in bfloat16 than in float32 unless there are a multiple of 16 of them."""
    with pytest.raises(ValueError, match="must be float32 or float64"):
        next(denoise(Curved(), make_scheduler("ddpm", SCHEDULER_CONFIG), noise([3]).bfloat16(), 6, [3]))


def test_a_used_scheduler_does_not_matter() -> None:
    scheduler = make_scheduler("dpmpp_2m", SCHEDULER_CONFIG)
    first = last(denoise(Curved(), scheduler, noise([3]), 6, [3])).latents
    scheduler.set_timesteps(9)
    scheduler.step(first, scheduler.timesteps[0], first)
    assert torch.equal(last(denoise(Curved(), scheduler, noise([3]), 6, [3])).latents, first)


def test_it_is_lazy_and_leaves_gradients_as_they_were() -> None:
    calls = []

    def denoiser(latents: Tensor, timestep: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return latents

    steps = denoise(denoiser, make_scheduler("ddim", SCHEDULER_CONFIG), noise([3]), 9, [3])
    assert calls == []
    for step in islice(steps, 2):
        assert torch.is_grad_enabled()
        assert step.num_steps == 9
    assert calls == [False, False]


def test_latents_that_are_not_numbers_stop_with_the_step() -> None:
    def denoiser(latents: Tensor, timestep: Tensor) -> Tensor:
        broken = torch.zeros_like(latents)
        if timestep < 500:
            broken[1, 0, 2, 0, 0] = torch.inf
        return broken

    steps = denoise(denoiser, make_scheduler("ddim", SCHEDULER_CONFIG), noise([3, 8]), 4, [3, 8])
    with pytest.raises(NonFiniteLatentsError) as caught:
        last(steps)
    assert str(caught.value) == (
        "latents must be finite, but are NaN or infinite in video 2 of the batch at step 3 of 4; "
        "set dtype to bfloat16 or float32, or lower guidance_scale"
    )
    assert caught.value.clips == (1,)


def test_a_seed_for_each_video() -> None:
    with pytest.raises(ValueError, match="seeds must be 2, one for each video, but are 1"):
        next(denoise(Curved(), make_scheduler("ddim", SCHEDULER_CONFIG), noise([3, 8]), 4, [3]))
