"""What a job's id must know of a model before it is loaded: its weights' hashes and its own defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from video_diffusion.generation_settings import COMMON_DEFAULTS
from video_diffusion.io import weights_sha256

NOISE = ("noise_type", "noise_alpha")
USUAL_NUM_FRAMES = 16


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

    def read(file: Path) -> Mapping[str, Any]:
        return read_json(file) if file.is_file() else {}

    folder = find_model(model).folder
    unet = read(folder / "unet" / "config.json")
    trained = {**unet, **read(folder / "motion_adapter" / "config.json")}
    identity: dict[str, Any] = {"weights_sha256": weights_sha256(folder), "motion_adapter_sha256": None}
    usual: Mapping[str, Any] = {}
    if motion_adapter == "none":
        identity["motion_adapter"] = "none"
        trained = {name: value for name, value in trained.items() if name not in NOISE}
    elif motion_adapter is not None:
        adapter_folder = find_model(motion_adapter).adapter_folder
        identity["motion_adapter_sha256"] = weights_sha256(adapter_folder)
        found = detect(adapter_folder)
        usual, trained = found.defaults, dict(found.config)
    sizes = _sizes(unet, read(folder / "vae" / "config.json"), trained)
    noise = {name: trained[name] for name in NOISE if name in trained}
    own = read(folder / "generation_defaults.json")
    return ModelFacts(identity, {**COMMON_DEFAULTS, **sizes, **noise, **own, **usual})


def _sizes(unet: Mapping[str, Any], vae: Mapping[str, Any], adapter: Mapping[str, Any]) -> Mapping[str, int]:
    """Length and size as `clip_plan.model_defaults` takes them from the loaded networks, from their files."""
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if unet.get("sample_size") is None or not levels:
        return {}
    side = unet["sample_size"]
    height, width = (side, side) if isinstance(side, int) else side
    scale = 2 ** (len(levels) - 1)
    length = min(USUAL_NUM_FRAMES, adapter.get("motion_max_seq_length", USUAL_NUM_FRAMES))
    return {"num_frames": length, "height": height * scale, "width": width * scale}
