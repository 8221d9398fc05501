"""Weights from any layout to another, pickles to safetensors, each with a card of what they are."""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file

from video_diffusion.loading.components import EXTRAS_FILE, IMAGE_LORA_FILE, quiet_libraries
from video_diffusion.loading.embeddings import embedding_names
from video_diffusion.loading.motion import describe_sparse_layout
from video_diffusion.loading.motion_weights import (
    gather_motion_lora,
    read_motion_checkpoint,
    write_motion_lora,
    write_original_layout,
)
from video_diffusion.loading.sources import find_lora, find_model, find_pickle
from video_diffusion.loading.weights import FLOAT_TYPES, ModelLoadError, StoredWeights, open_weights
from video_diffusion.loading.weights_facts import describe_weights, kind_of_weights
from video_diffusion.settings import parse_json
from video_diffusion.settings.field_rules import expanded
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
    front = ModelCardData(
        license=licence or "unknown",
        library_name="diffusers",
        pipeline_tag="text-to-video",
        base_model=base_model,
        tags=["animatediff", "motion-adapter"],
    )
    lines = ["---", front.to_yaml(), "---", "", f"# {_inline(title)}", ""]
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
    return str(ModelCard("\n".join(lines) + "\n"))


def _last_row(file: Path) -> dict[str, int | float]:
    for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and len(_numbers(row)) > 1:  # more than the step
            return _numbers(row)
    return {}


def _numbers(row: Mapping[str, Any]) -> dict[str, int | float]:
    return {key: value for key, value in row.items() if type(value) in {int, float}}


def _inline(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str) -> list[str]:
    """A code block that its own text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence]


# From any layout to another.


TargetLayout = Literal["diffusers", "animatediff"]
LORA_FILE = "pytorch_lora_weights.safetensors"
SAFE_AS: Mapping[str, str] = {
    "SparseCtrl encoder": "a SparseCtrl encoder, which needs no conversion; give it as sparsectrl",
    "LoRA": "a LoRA on the image model, which needs no conversion; give it as a LoRA",
    "motion and image LoRA": "a LoRA on both models, which needs no conversion; give it as a LoRA",
    "IP-Adapter": "an IP-Adapter, which needs no conversion; give it as ip_adapter",
    "embedding": "an embedding, which needs no conversion; give it as an embedding",
    "image model in one file": "an image model, which needs no conversion; give it as model",
}
"""What keeps its layout: a pickle of these kinds becomes safetensors, and safetensors need nothing."""
SAFE_NAMES = {"string_to_param.*": "emb_params"}
"""How the web UI calls the vectors of an embedding in a pickle, and in safetensors."""


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
    """Write temporal weights in another layout, or any weights of a pickle as safetensors, as they are."""
    destination, place = Path(destination), find_temporal(source)
    is_file = destination.suffix == ".safetensors"
    file = None if place.is_dir() else open_weights(place, allow_pickle=allow_pickle)
    kind = "motion module" if file is None else kind_of_weights(file.tensors)
    if file is not None and kind == "motion LoRA":
        if not is_file and layout == "animatediff":
            raise ValueError(
                f"DST must end with .safetensors for this layout, but is {destination}; name a file"
            )
        pairs = gather_motion_lora(file, file.load())
        if dtype is not None:
            pairs = {name: change.to(dtype) for name, change in pairs.items()}
        if is_file:
            write_motion_lora(pairs, destination, layout, overwrite=overwrite)
            return destination
        with atomic_path(destination, overwrite=overwrite) as part:
            part.mkdir()
            write_motion_lora(pairs, part / LORA_FILE, layout)
        return destination
    if file is not None and kind in SAFE_AS:
        of_a_run = expanded(source).is_dir()
        return _copy_safely(file, kind, destination, dtype, overwrite, of_a_run)
    if is_file == (layout == "diffusers"):
        rule = "be a folder, without a suffix," if is_file else "end with .safetensors"
        raise ValueError(f"DST must {rule} for layout {layout}, but is {destination}; name it so")
    adapter = read_motion_checkpoint(place, dtype, allow_pickle=allow_pickle, allow_extra=allow_extra)
    extras, lora = place / EXTRAS_FILE, place / IMAGE_LORA_FILE
    if layout == "animatediff":
        if extras.is_file():
            warnings.warn(
                f"{source} also trained parts of the image U-Net (temporal_and), which this layout cannot "
                f"hold; they stay in {extras}, and without them the temporal layers are not what was trained",
                stacklevel=2,
            )
        write_original_layout(adapter, destination, overwrite=overwrite)
        if lora.is_file():
            beside = destination.with_suffix(".lora.safetensors")
            with atomic_path(beside, overwrite=overwrite) as part:
                shutil.copy2(lora, part)
            warnings.warn(
                f"{source} also trained a LoRA on the image model (image_lora), which is {beside}; give both",
                stacklevel=2,
            )
        return destination
    with atomic_path(destination, overwrite=overwrite) as part, quiet_libraries():
        adapter.save_pretrained(part)
        for beside in (each for each in (extras, lora) if each.is_file()):
            shutil.copy2(beside, part / beside.name)
    return destination


def _copy_safely(
    file: StoredWeights,
    kind: str,
    destination: Path,
    dtype: torch.dtype | None,
    overwrite: bool,
    of_a_run: bool,
) -> Path:
    """What keeps its layout, as safetensors under the names that it has; a run's LoRA also into a folder."""
    if file.unpickled is None and kind != "SparseCtrl encoder" and not of_a_run:
        raise ModelLoadError(f"{file.path}: {SAFE_AS[kind]} as it is")
    into_folder = destination.suffix != ".safetensors"
    if into_folder and not (of_a_run and kind == "LoRA"):
        article = "an" if kind[0] in "Iie" else "a"
        raise ValueError(
            f"DST must end with .safetensors for {article} {kind}, but is {destination}; name a file"
        )
    if kind == "SparseCtrl encoder":
        describe_sparse_layout(file.tensors, str(file.path))
    # Image models and embeddings carry counters and row numbers besides, which nobody reads.
    numbers = [name for name, tensor in file.tensors.items() if tensor.dtype in FLOAT_TYPES]
    carries_others = {"image model in one file": numbers, "embedding": embedding_names(file.tensors)}
    tensors = {
        SAFE_NAMES.get(name, name): tensor.to(dtype or tensor.dtype).contiguous().clone()
        for name, tensor in file.load(carries_others.get(kind)).items()
    }
    with atomic_path(destination, overwrite=overwrite) as part:
        if into_folder:
            part.mkdir()
        save_file(tensors, part / LORA_FILE if into_folder else part, {"format": "pt"})
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
    has_lora = any((folder / inside).is_dir() for inside in ("motion_lora", "domain_lora"))
    if folder.is_dir() and (has_lora or (folder / LORA_FILE).is_file()):
        return find_lora(source)
    return found.adapter_folder
