from typing import Any, get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from tiny_models import SCHEDULER_CONFIG

from video_diffusion.sampling import SCHEDULERS, make_scheduler, start_run
from video_diffusion.settings import SchedulerName

NO_SIGNAL = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
NO_SIGNAL_BY_TABLE = {
    "trained_betas": DDIMScheduler(**NO_SIGNAL).betas.tolist(),
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}


def test_the_table_holds_the_names_that_settings_accept() -> None:
    assert set(SCHEDULERS) == set(get_args(SchedulerName))


@pytest.mark.parametrize(("name", "hint"), [("dimm", "did you mean 'ddim'"), ("zzz", "known are ddim, ddpm")])
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"not '{name}'; {hint}"):
        make_scheduler(name, SCHEDULER_CONFIG)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_noise_schedule_is_the_models(name: str) -> None:
    scheduler = make_scheduler(name, SCHEDULER_CONFIG)
    assert torch.equal(scheduler.betas, DDIMScheduler(**SCHEDULER_CONFIG).betas)
    assert scheduler.config.prediction_type == "epsilon"
    assert not scheduler.config.get("clip_sample", False)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("config", [NO_SIGNAL, NO_SIGNAL_BY_TABLE], ids=["rescaled", "trained_betas"])
def test_a_schedule_that_ends_without_signal_keeps_every_number_finite(
    name: str, config: dict[str, Any]
) -> None:
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(12)
    assert float(scheduler.timesteps[0]) == 999
    assert float(DDIMScheduler(**config).alphas_cumprod[-1]) == 0
    assert torch.isfinite(torch.as_tensor(scheduler.init_noise_sigma))
    assert torch.isfinite(getattr(scheduler, "sigmas", torch.zeros(1))).all()
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("num_steps", [3, 4, 8, 12])
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_karras"])
def test_few_steps_from_pure_noise_amplify_no_error_of_the_model(name: str, num_steps: int) -> None:
    """Symptom: `--scheduler heun` made garbage of 12 steps on the shipped model, `dpmpp_2m_karras` of 4.

    The stand-in knows one clean image but is off by 0.1, in turn up and down, as a network is.
    """
    image, noise = torch.linspace(-1, 1, 64), torch.randn(64, generator=torch.Generator().manual_seed(0))
    scheduler, timesteps = start_run(make_scheduler(name, NO_SIGNAL), num_steps)
    latents = noise * scheduler.init_noise_sigma
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        guess = image + 0.1 * (-1) ** index
        alpha = max(float(make_scheduler("ddim", NO_SIGNAL).alphas_cumprod[int(timestep)]), 2.0**-24)
        velocity = (alpha**0.5 * scaled - guess) / (1 - alpha) ** 0.5
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    assert float((latents - image).abs().max()) < 0.3


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_karras"])
def test_where_some_signal_is_left_the_schedulers_are_those_of_diffusers(name: str) -> None:
    ours = make_scheduler(name, SCHEDULER_CONFIG)
    theirs = type(ours).__mro__[1].from_config(ours.config)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ends = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(4)
        state = latents * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            predicted = scheduler.scale_model_input(state, timestep) * 0.9
            state = scheduler.step(predicted, timestep, state).prev_sample
        ends.append(state)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(*ends)


def test_zero_signal_is_met_as_diffusers_meets_it() -> None:
    ours = make_scheduler("euler", NO_SIGNAL_BY_TABLE)
    assert torch.allclose(ours.sigmas, EulerDiscreteScheduler(**NO_SIGNAL).sigmas, rtol=1e-5)


def test_fields_of_another_scheduler_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """SD 1.5 comes with PNDM, whose configuration says nothing of clipping where DDIM clips by default."""
    config = dict(PNDMScheduler(skip_prk_steps=True, beta_start=0.00085, beta_end=0.012).config)
    assert make_scheduler("ddim", config).config.clip_sample is False
    assert not caplog.records


def test_each_call_makes_a_fresh_one() -> None:
    assert make_scheduler("unipc", SCHEDULER_CONFIG) is not make_scheduler("unipc", SCHEDULER_CONFIG)
