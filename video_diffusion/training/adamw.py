"""AdamW over the trained parameters, and its learning rate as a function of the step alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from video_diffusion.training.settings import OptimizerSettings


def make_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over the trained parameters.

    Raises:
        ValueError: The 8-bit one is asked for and bitsandbytes is not installed.
    """
    more: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, **more)
    try:
        from bitsandbytes.optim import (  # type: ignore[import-not-found]  # optional, needs a GPU  # noqa: PLC0415
            AdamW8bit,
        )
    except ImportError:
        raise ValueError(
            "optimizer.name adamw_8bit needs bitsandbytes, which is not installed; install it on a machine "
            "with a GPU, or set adamw"
        ) from None
    return AdamW8bit(parameters, **more)


def learning_rate_factor(settings: OptimizerSettings, num_steps: int) -> Callable[[int], float]:
    """The learning rate at each step over its peak, as a function of the steps done before it.

    diffusers' schedules, entered one step late and ending one step later, so that neither the first step nor
    the last is taken with a rate of zero.
    """
    unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(
        settings.schedule,
        unused,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=num_steps + 1,
    )
    factor = schedule.lr_lambdas[0]
    return lambda done: float(factor(done + 1))
