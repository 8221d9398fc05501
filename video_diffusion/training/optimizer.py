"""Optimizers by name, what they remember, and the learning rate at each step."""

import difflib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from video_diffusion.settings.training import OptimizerSettings

# Keys of an optimizer's groups that the settings decide; whatever else stands there, a step may have changed.
DECIDED = frozenset({"params", "lr", "initial_lr", "betas", "eps", "weight_decay"})


def make_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of a name: PyTorch's AdamW, or one of pytorch-optimizer's.

    Raises:
        ValueError: A name nobody knows, a package that is missing, or an optimizer that cannot be resumed.
    """
    numbers: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(parameters, **numbers)
        case "adamw_8bit":
            try:
                from bitsandbytes.optim import (  # type: ignore[import-not-found]  # needs a GPU  # noqa: PLC0415
                    AdamW8bit,
                )
            except ImportError:
                raise ValueError(
                    "optimizer.name adamw_8bit needs bitsandbytes, which is not installed; install it on a "
                    "machine with a GPU, or set adamw"
                ) from None
            return AdamW8bit(parameters, **numbers)
    chosen = _class_of(settings.name)
    _check_resumable(settings.name, chosen, numbers)
    return _build(chosen, parameters, numbers)


def _class_of(name: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        import pytorch_optimizer  # noqa: PLC0415  an extra that only these names need
    except ImportError:
        raise ValueError(
            f"optimizer.name {name} needs pytorch-optimizer, which is not installed; "
            "pip install 'video-diffusion[train]', or set adamw"
        ) from None
    known = ["adamw", "adamw_8bit", *pytorch_optimizer.get_supported_optimizers()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["adamw", "muon", "prodigy"]
        raise ValueError(
            f"optimizer.name must be one that pytorch-optimizer knows, not {name!r}; {', '.join(near)}, say"
        )
    chosen: Callable[..., torch.optim.Optimizer] = pytorch_optimizer.load_optimizer(name)
    return chosen


def _build(
    chosen: Callable[..., torch.optim.Optimizer],
    parameters: Sequence[nn.Parameter],
    numbers: Mapping[str, Any],
) -> torch.optim.Optimizer:
    if hasattr(chosen, "_muon_state_keys"):  # matrices by Muon, the rest by the AdamW beside it, at one rate
        shared = {name: numbers[name] for name in ("lr", "weight_decay")}
        groups = [
            {"params": [each for each in parameters if each.ndim >= 2], **shared, "use_muon": True},
            {"params": [each for each in parameters if each.ndim < 2], **numbers, "use_muon": False},
        ]
        return chosen([group for group in groups if group["params"]])
    usual = {name: each.default for name, each in inspect.signature(chosen).parameters.items()}
    taken = {name: value for name, value in numbers.items() if name in usual}
    if len(usual.get("betas") or ()) == 3:  # a third that the settings do not have
        taken["betas"] = (*numbers["betas"], usual["betas"][2])
    return chosen(parameters, **taken)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimizer remembers: its tensors by name, and the numbers beside them as plain values."""
    whole = optimizer.state_dict()
    places = {
        f"{index}.{key}": value for index, kept in whole["state"].items() for key, value in kept.items()
    }
    places |= {
        f"group {number}.{key}": value
        for number, group in enumerate(whole["param_groups"])
        for key, value in group.items()
        if key not in DECIDED and isinstance(value, Tensor | float | int)
    }
    tensors = {place: value.cpu().clone() for place, value in places.items() if isinstance(value, Tensor)}
    return tensors, {place: value for place, value in places.items() if place not in tensors}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Give an optimizer back what `optimizer_state` found; rates and the like stay as the settings say."""
    state: dict[int, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for place, value in {**tensors, **plain}.items():
        owner, key = place.split(".", 1)
        if owner.startswith("group "):
            groups[int(owner.removeprefix("group "))][key] = value
        else:
            state.setdefault(int(owner), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_resumable(
    name: str, chosen: Callable[..., torch.optim.Optimizer], numbers: Mapping[str, Any]
) -> None:
    """Refuse an optimizer whose state, put into words and back, does not go on to the same bits."""

    def begin() -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        values = torch.linspace(-1, 1, 32).reshape(4, 8)
        parameters = [nn.Parameter(values.clone()), nn.Parameter(values[0].clone())]
        return parameters, _build(chosen, parameters, numbers)

    def step(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, number: int) -> None:
        for parameter in parameters:
            parameter.grad = torch.sin(parameter.detach() * (number + 2))
        optimizer.step()

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole, one = begin()
            step(whole, one, 0)
            step(whole, one, 1)
            tensors, plain = optimizer_state(one)
            kept = [parameter.detach().clone() for parameter in whole]
            step(whole, one, 2)
            torch.manual_seed(1)
            resumed, other = begin()
            restore_optimizer(other, tensors, json.loads(json.dumps(plain)))
            with torch.no_grad():
                for parameter, value in zip(resumed, kept, strict=True):
                    parameter.copy_(value)
            step(resumed, other, 2)
        same = all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
        why = "a resumed run would not be the unbroken one"
    except Exception as error:
        same, why = (
            False,
            f"of gradients and a saved state alone it cannot go on ({str(error).splitlines()[0][:100]})",
        )
    if same and hasattr(one, "eval"):
        same, why = False, "it keeps two sets of weights and is to be told which to use"
    if not same:
        raise ValueError(
            f"optimizer.name {name} cannot be used here: {why}; set adamw, muon, prodigy, lion or another"
        )


def learning_rate_factor(
    settings: OptimizerSettings, num_steps: int, optimizer: torch.optim.Optimizer
) -> Callable[[int], float]:
    """The learning rate at each step over its peak, as a function of the updates done before it.

    diffusers' schedules, entered one step late and ending one step later, so that neither the first step nor
    the last is taken with a rate of zero.
    """
    schedule = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=num_steps + 1,
    )
    for group in optimizer.param_groups:  # which the schedule has set to its first value
        group["lr"] = settings.learning_rate
    factor = schedule.lr_lambdas[0]
    return lambda done: float(factor(done + 1))
