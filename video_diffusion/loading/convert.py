"""Temporal weights from any layout to another, each with a card of what they are."""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from video_diffusion.loading.components import EXTRAS_FILE, quiet_libraries
from video_diffusion.loading.control import describe_sparse_layout, is_sparse_control
from video_diffusion.loading.motion_weights import (
    is_motion_lora,
    read_motion_checkpoint,
    read_motion_lora,
    write_motion_lora,
    write_original_layout,
)
from video_diffusion.loading.sources import find_lora, find_model, find_pickle
from video_diffusion.loading.weights import ModelLoadError, WeightFile, open_weights
from video_diffusion.loading.weights_facts import describe_weights
from video_diffusion.video import atomic_path, write_bytes

MAX_CONFIG_CHARACTERS = 20_000


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run's folder says of how its weights came about.

    Attributes:
        config: The run's settings as text.
        last_row: The numbers of the last measured step.
    """

    config: str
    last_row: Mapping[str, int | float]


def read_training_summary(place: Path) -> TrainingSummary | None:
    """Look for a training run at a folder or above it; None if it is not part of one."""
    for folder in (place, *place.parents[:3]):
        if (folder / "metrics.jsonl").is_file() and (folder / "config.yaml").is_file():
            config = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
            return TrainingSummary(config[:MAX_CONFIG_CHARACTERS], _last_row(folder / "metrics.jsonl"))
    return None


def model_card(
    facts: Mapping[str, Any],
    *,
    title: str,
    usage: str,
    base_model: str | None,
    licence: str | None,
    training: TrainingSummary | None,
) -> str:
    """Write the card as Markdown with the front matter that the Hugging Face hub reads."""
    front = {"license": licence or "unknown", "library_name": "diffusers", "pipeline_tag": "text-to-video"}
    if base_model is not None:
        front["base_model"] = base_model
    lines = ["---", *(f"{key}: {_scalar(value)}" for key, value in front.items())]
    lines += ["tags:", "- animatediff", "- motion-adapter", "---", "", f"# {_inline(title)}", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {_inline(key.replace('_', ' '))} | {_inline(value)} |" for key, value in facts.items()]
    lines += ["", "## Use", "", *_fenced(usage, "bash")]
    if training is not None:
        lines += ["", "## Training", "", "Settings of the run:", "", *_fenced(training.config, "yaml")]
        if training.last_row:
            shown = json.dumps(training.last_row, indent=2)
            lines += ["", "Last measured step:", "", *_fenced(shown, "json")]
    if licence is None:
        lines += ["", "The licence is not filled in: it follows from the base model and the training data."]
    return "\n".join(lines) + "\n"


def _last_row(file: Path) -> dict[str, int | float]:
    for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and len(_numbers(row)) > 1:  # more than the step
            return _numbers(row)
    return {}


def _numbers(row: Mapping[str, Any]) -> dict[str, int | float]:
    return {key: value for key, value in row.items() if type(value) in {int, float}}


def _scalar(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON text is a YAML text


def _inline(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str) -> list[str]:
    """A code block that its own text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence]


# Temporal weights from any layout to another: motion adapters, runs, motion LoRAs, SparseCtrl encoders.


TargetLayout = Literal["diffusers", "animatediff"]
LORA_FILE = "pytorch_lora_weights.safetensors"


def convert(
    source: str,
    destination: Path | str,
    layout: TargetLayout,
    *,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    allow_extra: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write temporal weights in another layout; every number stays what it was."""
    destination, place = Path(destination), find_temporal(source)
    is_file = destination.suffix == ".safetensors"
    if is_lora(place, allow_pickle):
        if not is_file and layout == "animatediff":
            raise ValueError(
                f"DST must end with .safetensors for this layout, but is {destination}; name a file"
            )
        pairs = read_motion_lora(place, allow_pickle=allow_pickle)
        if dtype is not None:
            pairs = {name: change.to(dtype) for name, change in pairs.items()}
        if is_file:
            write_motion_lora(pairs, destination, layout, overwrite=overwrite)
            return destination
        with atomic_path(destination, overwrite=overwrite) as part:
            part.mkdir()
            write_motion_lora(pairs, part / LORA_FILE, layout)
        return destination
    if place.is_file():
        file = open_weights(place, allow_pickle=allow_pickle)
        if is_sparse_control(file.tensors):
            return _copy_sparse_control(file, destination, dtype, overwrite)
    if is_file == (layout == "diffusers"):
        rule = "be a folder, without a suffix," if is_file else "end with .safetensors"
        raise ValueError(f"DST must {rule} for layout {layout}, but is {destination}; name it so")
    adapter = read_motion_checkpoint(place, dtype, allow_pickle=allow_pickle, allow_extra=allow_extra)
    extras = place / EXTRAS_FILE
    if layout == "animatediff":
        if extras.is_file():
            warnings.warn(
                f"{source} also trained parts of the image U-Net (temporal_and), which this layout cannot "
                f"hold; they stay in {extras}, and without them the temporal layers are not what was trained",
                stacklevel=2,
            )
        write_original_layout(adapter, destination, overwrite=overwrite)
        return destination
    with atomic_path(destination, overwrite=overwrite) as part, quiet_libraries():
        adapter.save_pretrained(part)
        if extras.is_file():
            shutil.copy2(extras, part / EXTRAS_FILE)
    return destination


def _copy_sparse_control(
    file: WeightFile, destination: Path, dtype: torch.dtype | None, overwrite: bool
) -> Path:
    """A SparseCtrl encoder as safetensors, under the names that it has."""
    if destination.suffix != ".safetensors":
        raise ValueError(
            f"DST must end with .safetensors for a SparseCtrl encoder, but is {destination}; name a file"
        )
    describe_sparse_layout(file.tensors, str(file.path))
    tensors = {name: tensor.to(dtype or tensor.dtype).clone() for name, tensor in file.load().items()}
    with atomic_path(destination, overwrite=overwrite) as part:
        save_file(tensors, part, {"format": "pt"})
    return destination


def write_card(
    source: str, destination: Path, base_model: str | None, licence: str | None, overwrite: bool = True
) -> Path:
    """Write the card of converted weights: README.md in their folder, or name.md beside their file."""
    facts = describe_weights(destination)
    shown = {key: value for key, value in facts.items() if key not in {"path", "use"} and value is not None}
    path = destination / "README.md" if destination.is_dir() else destination.with_suffix(".md")
    place = find_temporal(source)
    text = model_card(
        shown,
        title=destination.stem,
        usage=str(facts["use"]),
        base_model=base_model,
        licence=licence,
        training=read_training_summary(place),
    )
    write_bytes(path, text.encode(), overwrite=overwrite)
    return path


def find_temporal(source: str) -> Path:
    """The file or folder that holds temporal weights; a pickle is found too, though not yet read."""
    pickle = find_pickle(source)
    if pickle is not None:
        return pickle
    found = find_model(source)
    folder = found.folder
    if folder.is_dir() and ((folder / "motion_lora").is_dir() or (folder / LORA_FILE).is_file()):
        return find_lora(source)
    return found.adapter_folder


def is_lora(place: Path, allow_pickle: bool = False) -> bool:
    """Whether a file holds a motion LoRA; a folder at this point is an adapter."""
    if place.is_dir():
        return False
    names = open_weights(place, allow_pickle=allow_pickle).tensors
    if is_motion_lora(names):
        return True
    if any("lora" in name.lower() for name in names):
        raise ModelLoadError(
            f"{place}: a LoRA on the image model, which needs no conversion; give it as a LoRA as it is"
        )
    return False
