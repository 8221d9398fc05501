"""The state of a run as tensors and facts: what a checkpoint holds, and what a continuation must share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_diffusion.config import shown
from video_diffusion.training.checkpoint import load_checkpoint, save_checkpoint
from video_diffusion.training.settings import TrainingSettings
from video_diffusion.training.trainer import Trainer

Facts = dict[str, Any]
CONSTANT_SCHEDULES = {"constant", "constant_with_warmup"}


class ResumeError(ValueError):
    """A checkpoint that belongs to another run; the message names the fields that differ."""


def agreement(settings: TrainingSettings, trainer: Trainer, data: Mapping[str, str]) -> Facts:
    """What decides every weight of a run: its settings, its model and its data, as plain JSON values.

    Args:
        settings: Of the run.
        trainer: Holds the model.
        data: For each source of clips, the hash of its content.
    """
    identity = trainer.pipeline.parts.identity
    model = {
        "weights_sha256": identity.weights_sha256,
        "motion_adapter_sha256": identity.motion_adapter_sha256,
        "motion_adapter": "none" if identity.motion_adapter == "none" else None,
        "domain_lora": trainer.target.domain_lora,
    }
    return {"settings": dict(settings.binding()), "data": dict(data), "model": model}


def differing(there: Facts, now: Facts) -> list[str]:
    """Each field in which two agreements differ, with both values; empty if one run may go on as the other.

    More steps than before are the same run where the learning rate does not depend on their number.
    """
    found = []
    for section in ("settings", "data", "model"):
        before, after = there.get(section, {}), now.get(section, {})
        for name in [*before, *(name for name in after if name not in before)]:
            was, now_is = before.get(name), after.get(name)
            if was != now_is:
                found += [f"{section}.{name} was {shown(was)}, is {shown(now_is)}"]
    if now["settings"].get("optimizer.schedule") in CONSTANT_SCHEDULES:
        found = [line for line in found if not line.startswith("settings.num_steps ")]
    return [line.removeprefix("settings.") for line in found]


def save_state(trainer: Trainer, checkpoints: Path, facts: Facts, keep: int | None, seconds: float) -> Path:
    """Write a checkpoint of a run as it stands, with its weights ready for use inside.

    Raises:
        OSError: No space, no permission; earlier checkpoints are as they were.
    """
    names = list(trainer.target.parameters)
    groups: dict[str, dict[str, Tensor]] = {
        # Copies: while they are written, the parameters themselves have their averaged values.
        "trained": {name: p.detach().cpu().clone() for name, p in trainer.target.parameters.items()},
        "optimizer": _optimizer_tensors(trainer.raw_optimizer),
    }
    counters: Facts = {"seconds": seconds}
    if trainer.ema is not None:
        shadow = zip(names, trainer.ema.shadow_params, strict=True)
        groups["average"] = {name: tensor.cpu() for name, tensor in shadow}
        counters["ema_steps"] = trainer.ema.optimization_step
    if trainer.accelerator.scaler is not None:
        counters["scaler"] = trainer.accelerator.scaler.state_dict()
    with trainer.averaged():
        return save_checkpoint(
            checkpoints, trainer.step, groups, {**facts, **counters}, keep, trainer.target.save
        )


def load_state(trainer: Trainer, checkpoint: Path, facts: Facts) -> float:
    """Put a trainer where a checkpoint left off; returns the seconds of training so far.

    Raises:
        ResumeError: The checkpoint is of another run.
    """
    step, groups, there = load_checkpoint(checkpoint)
    lines = differing(there, facts)
    if lines:
        raise ResumeError(
            f"{checkpoint}: is of another run, which this one cannot continue: {'; '.join(lines)}; "
            "give the settings back, or start a new run in another folder"
        )
    with torch.no_grad():
        for name, parameter in trainer.target.parameters.items():
            parameter.copy_(groups["trained"][name])
    _load_optimizer(trainer.raw_optimizer, groups["optimizer"])
    if trainer.ema is not None:
        device = trainer.accelerator.device
        shadow = [groups["average"][name].to(device) for name in trainer.target.parameters]
        trainer.ema.load_state_dict(
            {
                **trainer.ema.state_dict(),
                "optimization_step": int(there["ema_steps"]),
                "shadow_params": shadow,
            }
        )
    if trainer.accelerator.scaler is not None and "scaler" in there:
        trainer.accelerator.scaler.load_state_dict(there["scaler"])
    trainer.step = step
    return float(there["seconds"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value).cpu().clone()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        index, name = full_name.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
