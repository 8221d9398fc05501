"""What a job's id must know of a model before it is loaded: its weights' hashes and its own defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from video_diffusion.generation_settings import COMMON_DEFAULTS
from video_diffusion.io import weights_sha256


@dataclass(frozen=True)
class ModelFacts:
    """Hashes that stand for a model and its temporal layers in job ids, and the settings it leaves open."""

    identity: Mapping[str, Any]
    defaults: Mapping[str, Any]


@cache
def model_facts(model: str, motion_adapter: str | None) -> ModelFacts:
    """Reads and hashes the files of a model, once per process; nothing is loaded.

    Raises:
        ModelLoadError: there is no such model.
    """
    # imported here: a job file is checked without importing torch
    from video_diffusion.loading import detect, find_model  # noqa: PLC0415
    from video_diffusion.loading.json_file import read_json  # noqa: PLC0415

    folder = find_model(model).folder
    adapter_folder = folder / "motion_adapter"
    identity: dict[str, Any] = {"weights_sha256": weights_sha256(folder), "motion_adapter_sha256": None}
    usual: Mapping[str, Any] = {}
    if motion_adapter == "none":
        identity["motion_adapter"] = "none"
    elif motion_adapter is not None:
        adapter_folder = find_model(motion_adapter).adapter_folder
        identity["motion_adapter_sha256"] = weights_sha256(adapter_folder)
        usual = detect(adapter_folder).defaults

    def read(file: Path) -> Mapping[str, Any]:
        return read_json(file) if file.is_file() else {}

    trained = read(adapter_folder / "config.json") if motion_adapter != "none" else {}
    noise = {name: trained[name] for name in ("noise_type", "noise_alpha") if name in trained}
    own = read(folder / "generation_defaults.json")
    return ModelFacts(identity, {**COMMON_DEFAULTS, **noise, **own, **usual})
