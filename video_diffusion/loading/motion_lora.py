"""Motion LoRAs: low-rank changes to temporal attention, in the layouts of AnimateDiff, diffusers and peft.

A change is weight · alpha / rank · up @ down. AnimateDiff's files, and diffusers' of them, know no alpha:
there the factor is the user's weight alone. peft's metadata and `.alpha` tensors, where there are, count.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_diffusion.io import atomic_path
from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.motion_layout import original_names, present_name
from video_diffusion.loading.weight_file import WeightFile, open_weights
from video_diffusion.models import MotionAdapter

PEFT_TAG = "lora_adapter_metadata"

_PREFIX = re.compile(r"^(module\.|unet\.|motion_adapter\.|base_model\.model\.)+")
_OLD_NAME = re.compile(r"\.(processor\.)?(?P<layer>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight$")
_NEW_NAME = re.compile(
    r"\.(lora_(?P<letter>[AB])(\.default)?|lora\.(?P<part>down|up)|lora_linear_layer\.(?P<long>down|up))"
    r"\.weight$"
)
_ALPHA = re.compile(r"(_lora|\.lora)?\.alpha$")


@dataclass(frozen=True)
class LowRank:
    """A low-rank change to one matrix: scale · up @ down.

    Attributes:
        down: r × columns.
        up: rows × r.
        scale: alpha / rank, or 1 where the file knows no alpha.
    """

    down: Tensor
    up: Tensor
    scale: float

    def to(self, dtype: torch.dtype) -> "LowRank":
        """The same change in another precision."""
        return LowRank(self.down.to(dtype), self.up.to(dtype), self.scale)


def is_motion_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names hold a LoRA on temporal layers."""
    return any("lora" in name.lower() and ".motion_modules." in name for name in names)


def read_motion_lora(path: Path | str, *, allow_pickle: bool = False) -> dict[str, LowRank]:
    """Read a motion LoRA: its changes, by our name of the layer.

    Args:
        path: A file in any of the layouts.
        allow_pickle: Whether a `.ckpt` or the like may be read, see `open_weights`.

    Raises:
        ModelLoadError: Not a motion LoRA, or one with tensors that are missing, unknown or not finite.
    """
    file = open_weights(path, allow_pickle=allow_pickle)
    return gather_motion_lora(file, file.load())


def gather_motion_lora(file: WeightFile, tensors: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Pair the tensors of a motion LoRA; errors as `read_motion_lora`.

    Args:
        file: Where they come from.
        tensors: Those of the temporal layers.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = _parsed(name)
        if part is None:
            raise ModelLoadError(f"{file.path}: {name} is not part of a motion LoRA; give a file that is one")
        parts.setdefault(layer, {})[part] = tensor
    alphas = _peft_alphas(file)
    pairs = {}
    for layer, found in parts.items():
        if not {"down", "up"} <= found.keys() or found["down"].shape[0] != found["up"].shape[-1]:
            raise ModelLoadError(f"{file.path}: {layer} lacks one half of its change, or halves of one rank")
        rank = found["down"].shape[0]
        alpha = float(found["alpha"]) if "alpha" in found else alphas.get(layer, alphas.get("", rank))
        pairs[layer] = LowRank(found["down"], found["up"], alpha / rank)
    if not pairs:
        raise ModelLoadError(f"{file.path}: holds no motion LoRA; give a file that is one")
    return pairs


def write_motion_lora(
    pairs: Mapping[str, LowRank],
    path: Path | str,
    layout: Literal["diffusers", "animatediff"],
    *,
    overwrite: bool = True,
) -> None:
    """Write a motion LoRA as safetensors, its scale multiplied into `up` since neither layout knows alpha.

    Args:
        pairs: As `read_motion_lora` gives them.
        path: Appears only when it is complete.
        layout: "diffusers" for its `load_lora_weights`, "animatediff" for the original's and ComfyUI's nodes.
        overwrite: False refuses an existing file.

    Raises:
        FileExistsError: See `overwrite`.
        OSError: No space, no permission.
    """
    tensors = {}
    for layer, change in pairs.items():
        halves = {"down": change.down, "up": change.up if change.scale == 1 else change.up * change.scale}
        for part, tensor in halves.items():
            tensors[_written_name(layer, part, layout)] = tensor.detach().cpu().contiguous().clone()
    with atomic_path(path, overwrite=overwrite) as file:
        save_file(tensors, file, {"format": "pt"})


def add_motion_lora(adapter: MotionAdapter, pairs: Mapping[str, LowRank], weight: float, where: str) -> None:
    """Add a motion LoRA's changes to an adapter's weights, each computed in float32 and rounded once.

    Args:
        adapter: Is changed in place.
        pairs: As `read_motion_lora` gives them.
        weight: 1 is the LoRA as trained; 0 changes nothing, negative ones turn it around.
        where: The file, for messages.

    Raises:
        ModelLoadError: The LoRA is for temporal layers of another shape; both are named.
    """
    parameters = dict(adapter.named_parameters())
    for layer, change in pairs.items():
        parameter, shape = parameters.get(f"{layer}.weight"), (len(change.up), change.down.shape[1])
        if parameter is None or tuple(parameter.shape) != shape:
            own = "has no such layer" if parameter is None else f"has {tuple(parameter.shape)} there"
            raise ModelLoadError(
                f"{where}: changes {layer} of shape {shape}, but the motion adapter {own}; "
                "the LoRA is for another base model or another version of the adapter"
            )
    for layer, change in pairs.items():
        parameter = parameters[f"{layer}.weight"]
        precise = torch.promote_types(parameter.dtype, torch.float32)
        up, down = (half.to(parameter.device, precise) for half in (change.up, change.down))
        with torch.no_grad():
            parameter.copy_(parameter.to(precise) + weight * change.scale * (up @ down))


def _parsed(name: str) -> tuple[str, str | None]:
    """The layer that a tensor belongs to, by our name, and which part of its change it is."""
    name = present_name(_PREFIX.sub("", name))
    if found := _OLD_NAME.search(name):
        layer = "to_out.0" if found["layer"] == "to_out" else found["layer"]
        return f"{name[: found.start()]}.{layer}", found["part"]
    if found := _NEW_NAME.search(name):
        letter = {"A": "down", "B": "up"}.get(found["letter"] or "")
        return name[: found.start()], letter or found["part"] or found["long"]
    if found := _ALPHA.search(name):
        layer = name[: found.start()].replace(".processor.", ".")
        return re.sub(r"\.to_out$", ".to_out.0", layer), "alpha"
    return name, None


def _written_name(layer: str, part: str, layout: str) -> str:
    if layout == "diffusers":
        return f"unet.{layer}.lora_{'A' if part == 'down' else 'B'}.weight"
    (name,) = original_names(f"{layer}.weight")
    attention, _, projection = name.removesuffix(".weight").replace(".to_out.0", ".to_out").rpartition(".")
    return f"{attention}.processor.{projection}_lora.{part}.weight"


def _peft_alphas(file: WeightFile) -> dict[str, float]:
    """What peft's metadata says of alpha: for all layers under "", and for layers of their own."""
    text = file.metadata.get(PEFT_TAG)
    if text is None:
        return {}
    try:
        values: Any = json.loads(text)
        found = {key.removeprefix("unet."): value for key, value in values.items()}
        own = {str(layer): float(alpha) for layer, alpha in (found.get("alpha_pattern") or {}).items()}
        return own | {"": float(found["lora_alpha"])}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise ModelLoadError(f"{file.path}: its {PEFT_TAG} is damaged; save the LoRA again") from None
