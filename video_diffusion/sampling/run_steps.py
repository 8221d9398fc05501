"""The steps of one run: a fresh scheduler and the timesteps at which the model is asked."""

from typing import Any

import torch
from torch import Tensor


def start_run(
    scheduler: Any,
    num_inference_steps: int,
    strength: float = 1.0,
    enforce_steps: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Any, Tensor]:
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
    of_all = _enforced(scheduler, num_inference_steps, strength) if enforce_steps else num_inference_steps
    num_done = steps_done(num_inference_steps, strength, enforce_steps)
    scheduler.set_timesteps(of_all, device=device)
    first = scheduler.order * (of_all - num_done)
    if hasattr(scheduler, "set_begin_index"):
        # Else it looks its place up by timestep, and Karras spacing has some timesteps twice.
        scheduler.set_begin_index(first)
    return scheduler, scheduler.timesteps[first:]


def steps_done(num_inference_steps: int, strength: float = 1.0, enforce_steps: bool = False) -> int:
    """Tell how many steps a run does; arguments and errors as of `start_run`."""
    return num_inference_steps if enforce_steps else _kept(num_inference_steps, strength)


def _kept(num_inference_steps: int, strength: float) -> int:
    kept = min(int(num_inference_steps * strength), num_inference_steps)
    if kept < 1:
        raise ValueError(
            f"strength {strength:g} of {num_inference_steps} steps leaves none to do; "
            f"set it to {1 / num_inference_steps:.2g} or more"
        )
    return kept


def _enforced(scheduler: Any, num_inference_steps: int, strength: float) -> int:
    of_all, known = int(num_inference_steps / strength), int(scheduler.config.num_train_timesteps)
    if of_all > known:
        raise ValueError(
            f"enforce_steps with strength {strength:g} divides the schedule into {of_all} steps, but the "
            f"model was trained on {known}; set strength to {num_inference_steps / known:.2g} or more"
        )
    return of_all
