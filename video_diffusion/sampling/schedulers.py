"""Schedulers by name, the steps of a run, and how noisy a timestep is."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Shaped
from torch import Tensor

from video_diffusion.settings import nearest

Scheduler: TypeAlias = SchedulerMixin
"""Any of diffusers' schedulers."""

# diffusers' own stand-in for alphas_cumprod = 0, no signal, where a noise level must be finite.
SMALLEST_ALPHAS_CUMPROD = 2.0**-24
LARGEST_SIGMA = 80.0
"""Standard deviations of noise over signal beyond which nothing is seen (Karras et al. 2022, table 1)."""


@dataclass(frozen=True)
class SchedulerRow:
    """A diffusers scheduler and what its name here adds to the model's own configuration.

    Attributes:
        name: Of its class.
        file: Of diffusers, without "scheduling_", or a module of this package, with its dots; it is imported
            when it is first asked for, since some bring half a second of scipy along.
        settings: To change.
        fewest_steps: That end where more would, from pure noise; measured in `docs/schedulers.md`.
    """

    name: str
    file: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    fewest_steps: int = 1

    @property
    def scheduler(self) -> type[Scheduler]:
        """The class itself."""
        module = self.file if "." in self.file else f"diffusers.schedulers.scheduling_{self.file}"
        return getattr(import_module(module), self.name)


FROM_NOISE = "video_diffusion.sampling.from_noise"
DPM = ("DPMSolverMultistepScheduler", "dpmsolver_multistep")
DPMPP: dict[str, Any] = {"solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": False}

DDIM = SchedulerRow("DDIMScheduler", "ddim")

SCHEDULERS: Mapping[str, SchedulerRow] = {
    "ddim": DDIM,
    "ddpm": SchedulerRow("DDPMScheduler", "ddpm"),
    "euler": SchedulerRow("EulerDiscreteScheduler", "euler_discrete", {"use_karras_sigmas": False}),
    "euler_a": SchedulerRow("EulerAncestralDiscreteScheduler", "euler_ancestral_discrete"),
    "heun": SchedulerRow("HeunFromNoiseScheduler", FROM_NOISE, {"use_karras_sigmas": False}),
    "dpmpp_2m": SchedulerRow(*DPM, DPMPP | {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": SchedulerRow(
        "KarrasFromNoiseScheduler",
        FROM_NOISE,
        DPMPP | {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        fewest_steps=6,
    ),
    # DPM-Solver++ SDE in its multistep form ("2M SDE"): of diffusers' single-step forms one needs torchsde
    # and the other knows no timestep spacing.
    "dpmpp_sde": SchedulerRow(*DPM, DPMPP | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": SchedulerRow(
        "UniPCMultistepScheduler", "unipc_multistep", {"solver_order": 2, "solver_type": "bh2"}
    ),
    "lcm": SchedulerRow("LCMScheduler", "lcm"),
}


def make_scheduler(name: str, config: Mapping[str, Any]) -> Scheduler:
    """Make a fresh scheduler for one run.

    Args:
        name: A row of `SCHEDULERS`.
        config: The model's own scheduler configuration, written by whichever scheduler; from it come the
            noise schedule, what the model predicts and the timestep spacing. Fields that the named scheduler
            lacks are left out. `clip_sample` is always off: latents, unlike pixels, are not bound to [-1, 1].

    Raises:
        ValueError: No such name; the message has the nearest.

    >>> type(make_scheduler("euler", {"num_train_timesteps": 1000})).__name__
    'EulerDiscreteScheduler'
    """
    if name not in SCHEDULERS:
        known_names = f"one of the {len(SCHEDULERS)} known names"
        raise ValueError(f"scheduler must be {known_names}, not {name!r}{nearest(name, SCHEDULERS)}")
    row = SCHEDULERS[name]
    known = inspect.signature(row.scheduler.__init__).parameters
    settings = dict(config) | dict(row.settings) | {"clip_sample": False}
    trained = trained_schedule(config)
    if float(trained.alphas_cumprod[-1]) < SMALLEST_ALPHAS_CUMPROD:
        # Trained on pure noise (Lin et al. 2023): schedulers that count in sqrt(1/alphas_cumprod - 1) would
        # start from infinity. Most have a switch for it; for the others the last beta gives way as much.
        if "rescale_betas_zero_snr" in known:
            settings["rescale_betas_zero_snr"] = True
        else:
            last_beta = 1 - SMALLEST_ALPHAS_CUMPROD / float(trained.alphas_cumprod[-2])
            settings["trained_betas"] = [*trained.betas.tolist()[:-1], last_beta]
    try:
        return row.scheduler(**{key: value for key, value in settings.items() if key in known})
    except Exception as error:  # whatever a wrong value leads to, deep inside the library
        raise ValueError(
            f"scheduler {name} cannot be made from this model's scheduler_config.json ({error}); "
            "choose another"
        ) from error


def trained_schedule(config: Mapping[str, Any]) -> Scheduler:
    """Make the model's own noise schedule, by the one scheduler that takes every configuration."""
    known = inspect.signature(DDIM.scheduler.__init__).parameters
    return DDIM.scheduler(**{key: value for key, value in config.items() if key in known})


# How noisy a timestep is, in the schedule a model was trained with.


class NoiseLevels:
    """The share of signal at each timestep, and what the model predicts.

    Args:
        config: The model's own scheduler configuration.

    Attributes:
        prediction_type: "epsilon", "v_prediction" or "sample".
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        schedule = trained_schedule(config)
        self.prediction_type: str = schedule.config.prediction_type
        self._table = schedule.alphas_cumprod.double().numpy()

    def alphas_cumprod(self, timestep: float) -> float:
        """Tell the squared share of signal at a timestep; between two timesteps, in a straight line."""
        return float(np.interp(timestep, np.arange(len(self._table)), self._table))

    @property
    def last_alphas_cumprod(self) -> float:
        """The squared share of signal at the noisiest timestep."""
        return float(self._table[-1])


def is_pure_noise(alphas_cumprod: float) -> bool:
    """Tell whether nothing can be seen at that share of signal."""
    return alphas_cumprod < 1 / (1 + LARGEST_SIGMA**2)


def too_few_steps(name: str, num_inference_steps: int, config: Mapping[str, Any]) -> int | None:
    """Tell how many steps a scheduler needs from pure noise, where it is given fewer; else None."""
    fewest = SCHEDULERS[name].fewest_steps
    if num_inference_steps >= fewest or not is_pure_noise(NoiseLevels(config).last_alphas_cumprod):
        return None
    return fewest


# The steps of one run: a fresh scheduler and the timesteps at which the model is asked.


def start_run(
    scheduler: Scheduler,
    num_inference_steps: int,
    strength: float = 1.0,
    enforce_steps: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Scheduler, Shaped[Tensor, " steps"]]:
    """Make a fresh scheduler, and list the timesteps of its run, the noisiest first.

    Steps are counted as diffusers' image-to-image and video-to-video pipelines count them. With Heun's, whose
    timesteps come twice, an enforced run is of whole steps, where diffusers begins within one.

    Args:
        scheduler: A diffusers scheduler; only its configuration is used.
        num_inference_steps: Steps to ask for.
        strength: How much of the way from noise is gone, above 0 to 1: the last ones of its steps.
        enforce_steps: Whether `num_inference_steps` is the number of steps that are done (the schedule is
            divided into so many more), instead of what the whole way would take.
        device: For the timesteps.

    Raises:
        ValueError: A strength without a step, or with more steps than the model was trained on.
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    of_all, known = num_inference_steps, int(scheduler.config.num_train_timesteps)
    if enforce_steps:
        of_all = int(num_inference_steps / strength)
        if of_all > known:
            raise ValueError(
                f"enforce_steps with strength {strength:g} divides the schedule into {of_all} steps, but the "
                f"model was trained on {known}; set strength to {num_inference_steps / known:.2g} or more"
            )
    num_done = steps_done(num_inference_steps, strength, enforce_steps)
    scheduler.set_timesteps(of_all, device=device)
    first = scheduler.order * (of_all - num_done)
    if hasattr(scheduler, "set_begin_index"):
        # Else it looks its place up by timestep, and Karras spacing has some timesteps twice.
        scheduler.set_begin_index(first)
    return scheduler, scheduler.timesteps[first:]


def steps_done(num_inference_steps: int, strength: float = 1.0, enforce_steps: bool = False) -> int:
    """Tell how many steps a run does; arguments and errors as of `start_run`."""
    if enforce_steps:
        return num_inference_steps
    num_done = min(int(num_inference_steps * strength), num_inference_steps)
    if num_done < 1:
        raise ValueError(
            f"strength {strength:g} of {num_inference_steps} steps leaves none to do; "
            f"set it to {1 / num_inference_steps:.2g} or more"
        )
    return num_done


# Shares of a run's steps as timesteps, for what is at work during a part of the run only.


def timesteps_between(
    timesteps: Shaped[Tensor, " steps"], shares: tuple[float, float], setting: str
) -> tuple[float, float]:
    """Tell between which timesteps, both included, the steps of a part of a run lie.

    A step belongs to it that lies in it as a whole, counted as diffusers' ControlNet pipelines count: step i
    of n, from 0, if i/n is not below the start and (i+1)/n not above the end. Where a scheduler has one
    timestep twice (Heun's), both belong.

    Args:
        timesteps: Of the run, see `start_run`.
        shares: Start and end of the part, 0 to 1.
        setting: That says so, for messages.

    Returns:
        The lowest and the highest timestep.

    Raises:
        ValueError: No step lies in it.
    """
    count, (start, end) = len(timesteps), shares
    inside = [float(t) for i, t in enumerate(timesteps) if i / count >= start and (i + 1) / count <= end]
    if not inside:
        raise ValueError(
            f"{setting} {start:g}-{end:g} holds none of {count} steps, of which each is a share of "
            f"{1 / count:.2g}; widen it"
        )
    return min(inside), max(inside)
