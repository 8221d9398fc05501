from typing import Any, get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from tiny_models import SCHEDULER_CONFIG

from video_diffusion.sampling import SCHEDULERS, make_scheduler
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
