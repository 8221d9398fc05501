"""The samplers by name: one table of stock diffusers schedulers."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

# diffusers' own stand-in for alphas_cumprod = 0, no signal, where a noise level must be finite.
SMALLEST_ALPHAS_CUMPROD = 2.0**-24


@dataclass(frozen=True)
class SchedulerRow:
    """A diffusers scheduler and what its name here adds to the model's own configuration.

    Attributes:
        name: Of its class.
        file: Of diffusers, without "scheduling_"; it is imported when it is first asked for, since some bring
            half a second of scipy along.
        settings: To change.
    """

    name: str
    file: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scheduler(self) -> Any:
        """The class itself."""
        return getattr(import_module(f"diffusers.schedulers.scheduling_{self.file}"), self.name)


DPM = ("DPMSolverMultistepScheduler", "dpmsolver_multistep")
DPMPP: dict[str, Any] = {"solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": False}

DDIM = SchedulerRow("DDIMScheduler", "ddim")

SCHEDULERS: Mapping[str, SchedulerRow] = {
    "ddim": DDIM,
    "ddpm": SchedulerRow("DDPMScheduler", "ddpm"),
    "euler": SchedulerRow("EulerDiscreteScheduler", "euler_discrete", {"use_karras_sigmas": False}),
    "euler_a": SchedulerRow("EulerAncestralDiscreteScheduler", "euler_ancestral_discrete"),
    "heun": SchedulerRow("HeunDiscreteScheduler", "heun_discrete", {"use_karras_sigmas": False}),
    "dpmpp_2m": SchedulerRow(*DPM, DPMPP | {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": SchedulerRow(
        *DPM, DPMPP | {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}
    ),
    # DPM-Solver++ SDE in its multistep form ("2M SDE"): of diffusers' single-step forms one needs torchsde
    # and the other knows no timestep spacing.
    "dpmpp_sde": SchedulerRow(*DPM, DPMPP | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": SchedulerRow(
        "UniPCMultistepScheduler", "unipc_multistep", {"solver_order": 2, "solver_type": "bh2"}
    ),
    "lcm": SchedulerRow("LCMScheduler", "lcm"),
}


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Make a fresh scheduler for one run.

    Args:
        name: A row of `SCHEDULERS`.
        config: The model's own scheduler configuration, written by whichever scheduler; from it come the
            noise schedule, what the model predicts and the timestep spacing. Fields that the named scheduler
            lacks are left out. `clip_sample` is always off: latents, unlike pixels, are not bound to [-1, 1].

    Raises:
        ValueError: No such name; the message has the nearest.
    """
    if name not in SCHEDULERS:
        near = difflib.get_close_matches(name, SCHEDULERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(SCHEDULERS)}"
        raise ValueError(f"scheduler must be one of the {len(SCHEDULERS)} known names, not {name!r}; {hint}")
    row = SCHEDULERS[name]
    known = _fields(row.scheduler)
    settings = dict(config) | dict(row.settings) | {"clip_sample": False}
    if _ends_without_signal(config):
        settings |= _finite_last_noise_level(row.scheduler, config)
    return row.scheduler(**{key: value for key, value in settings.items() if key in known})


def _fields(scheduler: Any) -> set[str]:
    return set(inspect.signature(scheduler.__init__).parameters)


def trained_schedule(config: Mapping[str, Any]) -> Any:
    """Make the model's own noise schedule, by the one scheduler that takes every configuration."""
    known = _fields(DDIM.scheduler)
    return DDIM.scheduler(**{key: value for key, value in config.items() if key in known})


def _ends_without_signal(config: Mapping[str, Any]) -> bool:
    return float(trained_schedule(config).alphas_cumprod[-1]) < SMALLEST_ALPHAS_CUMPROD


def _finite_last_noise_level(scheduler: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that keep the first noise level finite for a model trained on pure noise (Lin et al. 2023).

    Schedulers that count in noise levels, sqrt(1/alphas_cumprod - 1), would start from infinity. Most have a
    switch for it; for those that lack one the last beta gives way by the same amount.
    """
    if "rescale_betas_zero_snr" in _fields(scheduler):
        return {"rescale_betas_zero_snr": True}
    trained = trained_schedule(config)
    betas = trained.betas.tolist()
    betas[-1] = 1 - SMALLEST_ALPHAS_CUMPROD / float(trained.alphas_cumprod[-2])
    return {"trained_betas": betas}
