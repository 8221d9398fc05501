"""What a file or folder with temporal layers is: its family, and how to build it; takes no torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.json_file import read_json
from video_diffusion.loading.motion_families import FAMILIES, MotionFamily
from video_diffusion.loading.motion_layout import MotionLayout, describe_layout
from video_diffusion.loading.weight_file import WeightFile, open_weights
from video_diffusion.loading.weight_files import find_weights

CONFIG_TAG = "motion_adapter_config"
"""Under this name our own files in AnimateDiff's layout carry what shapes cannot tell, such as heads."""

ZERO_TERMINAL_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""What the schedule of an adapter that was trained with a last step of pure noise must say."""

# Lightning's files, and AnimateLCM's folder on the hub, have the very tensors of AnimateDiff v2; only their
# published names differ.
_LIGHTNING = re.compile(r"animatediff_lightning_(?P<steps>[1248])step")
_OURS = {"norm_scope", "family"}
_DISTILLED = ("num_inference_steps", "guidance_scale", "scheduler")


@dataclass(frozen=True)
class MotionFile:
    """A motion module that was looked at but not loaded.

    Attributes:
        path: A file, or a folder in diffusers' layout.
        weights: Its tensors.
        layout: What they tell.
        family: A key of `FAMILIES`, or None.
        config: All that `MotionAdapter` needs to be built.
    """

    path: Path
    weights: WeightFile
    layout: MotionLayout
    family: str | None
    config: Mapping[str, Any]

    @property
    def num_parameters(self) -> int:
        """Trained numbers in it; position tables, which are computed, do not count."""
        names = (stored[0] for ours, stored in self.layout.stored_names.items() if not ours.endswith(".pe"))
        return sum(prod(self.weights.tensors[name].shape) for name in names)

    @property
    def dtypes(self) -> list[str]:
        """Precisions it is stored in."""
        return sorted({tensor.dtype for tensor in self.weights.tensors.values()})

    @property
    def defaults(self) -> dict[str, Any]:
        """Usual generation settings of its family or distillation, and all words it knows where few."""
        kind = FAMILIES.get(self.family or "")
        if kind is None:
            listed = self.config.get("vocabulary")
            words = [word for word in listed if isinstance(word, str)] if isinstance(listed, list) else []
            distilled = self.config.get("distilled")
            told = distilled if isinstance(distilled, Mapping) else {}
            schedule = {name: told[name] for name in _DISTILLED if name in told}
            return schedule | ({"vocabulary": words} if words else {})
        length = min(int(kind.defaults["num_frames"]), int(self.config["motion_max_seq_length"]))
        named = _LIGHTNING.search(self.path.name)
        steps = {"num_inference_steps": int(named["steps"])} if named else {}
        return {**kind.defaults, "num_frames": length, **steps}

    @property
    def schedule(self) -> dict[str, Any]:
        """Scheduler fields that it or its family was trained with; empty means the image model's own."""
        kind = FAMILIES.get(self.family or "")
        rescaled = ZERO_TERMINAL_SNR if self.config.get("zero_terminal_snr") is True else {}
        return {**({} if kind is None else kind.schedule), **rescaled}


def detect(path: Path | str, *, allow_pickle: bool = False, variant: str | None = None) -> MotionFile:
    """Tell what a motion module is, from the names and shapes of its tensors.

    A file or folder that this project wrote says more (heads, groups, norms, family), which is then believed.
    Two things only published names tell: AnimateDiff-Lightning, with the steps it was distilled for, and
    AnimateLCM's folder in the hub's cache.

    Args:
        path: A weights file, or a folder with config.json and safetensors.
        allow_pickle: Whether a `.ckpt` or the like may be read, see `open_weights`.
        variant: Of a folder's weights, see `find_weights`.

    Raises:
        ModelLoadError: Not a motion module, damaged, or a pickle that is not allowed.
    """
    path = Path(path)
    if path.is_dir():
        config = read_json(path / "config.json")
        found = find_weights(path, "diffusion_pytorch_model", variant)
        weights = WeightFile(path, found.tensors, {})
    else:
        weights = open_weights(path, allow_pickle=allow_pickle)
        config = _own_config(weights)
    layout = describe_layout(weights.tensors, str(path))
    family = _own_family(config, path) if _OURS & config.keys() else _named_family(layout, path)
    kind = FAMILIES.get(family or "", MotionFamily("unknown"))
    told = {
        "norm_scope": "frame",
        "resnet_norm_scope": kind.resnet_norm_scope if layout.layout != "diffusers" else "frame",
        "family": family,
    }
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    return MotionFile(path, weights, layout, family, {**layout.config, **told, **given})


def _own_family(config: Mapping[str, Any], path: Path) -> str | None:
    family = config.get("family")
    if family is None or (isinstance(family, str) and family in FAMILIES):
        return family
    raise ModelLoadError(
        f"{path}: family must be one of {', '.join(FAMILIES)}, but is {family!r}; a newer version may know it"
    )


def _named_family(layout: MotionLayout, path: Path) -> str | None:
    if layout.family != "animatediff-v2":
        return layout.family
    if _LIGHTNING.search(path.name):
        return "animatediff-lightning"
    return "animatelcm" if "models--wangfuyun--AnimateLCM" in path.parts else layout.family


def _own_config(weights: WeightFile) -> dict[str, Any]:
    """What a file of ours says about itself, without believing anything that its shapes tell better."""
    text = weights.metadata.get(CONFIG_TAG)
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelLoadError(f"{weights.path}: its {CONFIG_TAG} is damaged; download it again")
    return config
