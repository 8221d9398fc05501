"""The state of a run as tensors and facts, and the checkpoints that hold it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_diffusion.settings import read_json_file, shown
from video_diffusion.settings.errors import one_line
from video_diffusion.settings.input_files import file_sha256
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.loop import Trainer
from video_diffusion.training.optimizer import optimizer_state, restore_optimizer
from video_diffusion.video import atomic_path

MANIFEST = "manifest.json"
FACT_KINDS: dict[str, Any] = {
    "settings": dict, "data": dict, "model": dict, "optimizer": dict, "scaler": dict,
    "seconds": int | float, "skipped": int, "ema_steps": int,
}  # fmt: skip


def _inside(name: str) -> str:
    """The name of a file of a checkpoint, which lies inside it."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("is outside the checkpoint")
    return name


def save_checkpoint(
    run: Path,
    step: int,
    groups: dict[str, dict[str, Tensor]],
    facts: dict[str, Any],
    keep: int | None = 2,
    write_more: Callable[[Path], None] | None = None,
) -> Path:
    """Write `run/step-00000123`: a safetensors file per group, a manifest with their sha256, then rename."""
    run.mkdir(parents=True, exist_ok=True)
    final = run / f"step-{step:08d}"
    with atomic_path(final, verify=_refuse_incomplete) as part, disk_errors(final):
        part.mkdir()
        for stem, tensors in groups.items():
            plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(plain, part / f"{stem}.safetensors")
        if write_more is not None:
            write_more(part)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        hashes = {path.relative_to(part).as_posix(): file_sha256(path) for path in files}
        manifest = {"step": step, "facts": facts, "sha256": hashes}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    if keep is not None:
        for old in sorted(run.glob("step-*"))[:-keep]:
            _remove(old)
    return final


def is_complete(checkpoint: Path) -> bool:
    """Whether every file the manifest names is there with its recorded sha256."""
    try:
        manifest = _read_manifest(checkpoint)
        return all(file_sha256(checkpoint / name) == digest for name, digest in manifest.sha256.items())
    except (OSError, ValueError):
        return False


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None where no run has saved any.

    Raises:
        ResumeError: There are checkpoints, but none that is whole.
    """
    checkpoints = sorted(run.glob("step-*"), reverse=True)
    newest = next((checkpoint for checkpoint in checkpoints if is_complete(checkpoint)), None)
    if newest is None and checkpoints:
        raise ResumeError(
            f"{run}: every checkpoint is damaged ({', '.join(path.name for path in checkpoints[:4])}), so "
            "there is nothing to go on from; put one back from a copy, or begin a new run in another folder"
        )
    return newest


def load_checkpoint(checkpoint: Path) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read `(step, groups, facts)` as given to `save_checkpoint`."""
    manifest = _read_manifest(checkpoint)
    own = [name for name in manifest.sha256 if "/" not in name and name.endswith(".safetensors")]
    groups = {Path(name).stem: load_file(checkpoint / name) for name in own}
    return manifest.step, groups, manifest.facts


class _Manifest(BaseModel):
    """What stands in a checkpoint's manifest; whatever is of another kind is damage."""

    model_config = ConfigDict(strict=True)

    step: Annotated[int, Field(ge=0)]
    facts: dict[str, Any]
    sha256: Annotated[dict[Annotated[str, AfterValidator(_inside)], str], Field(min_length=1)]

    @field_validator("facts")
    @classmethod
    def _of_their_kinds(cls, facts: dict[str, Any]) -> dict[str, Any]:
        for name, value in facts.items():
            if name in FACT_KINDS and (not isinstance(value, FACT_KINDS[name]) or value is True):
                raise ValueError(f"{name} is {shown(value)}")
        for place, number in facts.get("optimizer", {}).items():
            if not re.fullmatch(r"(group )?\d{1,9}\..+", place) or not isinstance(number, int | float):
                raise ValueError(f"optimizer {place} is {shown(number)}")
        return facts


def _read_manifest(checkpoint: Path) -> _Manifest:
    return _Manifest.model_validate(read_json_file(checkpoint / MANIFEST, strict=False))


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what the safetensors library raises on a full or failing disk into an OSError."""
    try:
        yield
    except SafetensorError as error:
        full = "StorageFull" in str(error) or "No space left" in str(error) or "code: 28" in str(error)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code), str(place)) from error


def _refuse_incomplete(checkpoint: Path) -> None:
    if not is_complete(checkpoint):
        raise OSError(f"{checkpoint} does not verify after writing; the disk may be failing")


def _remove(checkpoint: Path) -> None:
    """Take a checkpoint away; its manifest goes first, so that half of it is never taken for a whole one."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


# The state of a run as tensors and facts: what a checkpoint holds, and what a continuation must share.


Facts = dict[str, Any]
CONSTANT_SCHEDULES = {"constant", "constant_with_warmup"}


class ResumeError(ValueError):
    """A checkpoint that belongs to another run; the message names the fields that differ."""


def agreement(settings: TrainingSettings, trainer: Trainer, data: Mapping[str, str]) -> Facts:
    """What decides every weight of a run: its settings, its model and its data, as plain JSON values."""
    identity = trainer.pipeline.parts.identity
    model = {
        "weights_sha256": identity.weights_sha256,
        "motion_adapter_sha256": identity.motion_adapter_sha256,
        "motion_adapter": "none" if identity.motion_adapter == "none" else None,
        "domain_lora": trainer.target.domain_lora,
    }
    return {"settings": dict(settings.binding()), "data": dict(data), "model": model}


def differing(there: Facts, now: Facts) -> dict[str, str]:
    """Each field in which two agreements differ, with both values; empty if one run may go on as the other.

    More steps than before are the same run where the learning rate does not depend on their number.
    """
    found = {}
    for section in ("settings", "data", "model"):
        before, after = there.get(section, {}), now.get(section, {})
        if section == "settings":  # of an older version: what it did not know had its usual value
            before = {**TrainingSettings.model_validate({"data": "clips"}).binding(), **before}
        for name in [*before, *(name for name in after if name not in before)]:
            was, now_is = before.get(name), after.get(name)
            if was != now_is:
                full = name if section == "settings" else f"{section}.{name}"
                found[full] = f"{full} was {shown(was)}, is {shown(now_is)}"
    if now["settings"].get("optimizer.schedule") in CONSTANT_SCHEDULES:
        found.pop("num_steps", None)
    return found


def is_allowed(name: str, allowed: Collection[str]) -> bool:
    """Whether a field may differ: by its name, its section, or the setting that names a model's file."""
    return any(
        name == key or name.startswith(f"{key}.") or name.startswith(f"model.{key}") for key in allowed
    )


def save_state(trainer: Trainer, checkpoints: Path, facts: Facts, keep: int | None, seconds: float) -> Path:
    """Write a checkpoint of a run as it stands, with its weights ready for use inside."""
    names = list(trainer.target.parameters)
    groups: dict[str, dict[str, Tensor]] = {
        # Copies: while they are written, the parameters themselves have their averaged values.
        "trained": {name: p.detach().cpu().clone() for name, p in trainer.target.parameters.items()},
    }
    groups["optimizer"], plain = optimizer_state(trainer.raw_optimizer)
    counters: Facts = {"seconds": seconds, "skipped": trainer.num_skipped, "optimizer": plain}
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


def load_state(
    trainer: Trainer, checkpoint: Path, facts: Facts, allowed: Collection[str] = ()
) -> tuple[float, tuple[str, ...]]:
    """Put a trainer where a checkpoint left off.

    Returns the seconds of training so far, and in words what is allowed to differ and does.
    """
    step, groups, there = load_checkpoint(checkpoint)
    changed = differing(there, facts)
    refused = [line for name, line in changed.items() if not is_allowed(name, allowed)]
    if refused:
        raise ResumeError(
            f"{checkpoint}: is of another run, which this one cannot continue: {'; '.join(refused)}; "
            "give the settings back, allow them to change (--allow KEY,KEY), or start a new run in another "
            "folder"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in groups["trained"].items()}
    if shapes != {name: tuple(parameter.shape) for name, parameter in trainer.target.parameters.items()}:
        raise ResumeError(
            f"{checkpoint}: holds other weights than are to be trained ({'; '.join(changed.values())}); what "
            "is trained cannot change within a run, so start a new one in another folder"
        )
    with torch.no_grad():
        for name, parameter in trainer.target.parameters.items():
            parameter.copy_(groups["trained"][name])
    if "optimizer.name" not in changed:  # else its moments begin anew
        try:
            restore_optimizer(trainer.raw_optimizer, groups["optimizer"], there.get("optimizer", {}))
        except (ValueError, LookupError, TypeError) as error:
            raise ResumeError(
                f"{checkpoint}: its optimizer's state is not this run's ({one_line(error)}); put the "
                "checkpoint back from a copy, or begin a new run in another folder"
            ) from None
    if trainer.ema is not None:  # one that was switched on now begins with the weights as they are
        device, average = trainer.accelerator.device, groups.get("average", groups["trained"])
        shadow = [average[name].to(device) for name in trainer.target.parameters]
        trainer.ema.load_state_dict(
            {
                **trainer.ema.state_dict(),
                "optimization_step": int(there.get("ema_steps", 0)),
                "shadow_params": shadow,
            }
        )
    if trainer.accelerator.scaler is not None and "scaler" in there:
        trainer.accelerator.scaler.load_state_dict(there["scaler"])
    trainer.step, trainer.num_skipped = step, int(there.get("skipped", 0))
    return float(there["seconds"]), tuple(changed.values())
