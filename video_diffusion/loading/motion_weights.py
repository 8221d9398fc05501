"""Temporal weights read from any published layout: motion modules, fused U-Nets, motion LoRAs."""

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from safetensors.torch import save_file
from torch import Tensor

from video_diffusion.loading.components import build, check_config, fill, load_diffusers
from video_diffusion.loading.motion import (
    CONFIG_TAG,
    POSITIONS,
    MotionFile,
    detect,
    original_names,
    present_name,
)
from video_diffusion.loading.weights import (
    ModelLoadError,
    StoredTensor,
    StoredWeights,
    compare_weights,
    open_weights,
)
from video_diffusion.models import MotionAdapter
from video_diffusion.models.temporal import SinusoidalPositions
from video_diffusion.settings import parse_json
from video_diffusion.video import atomic_path


def read_motion_checkpoint(
    path: Path | str,
    dtype: torch.dtype | None = None,
    *,
    allow_pickle: bool = False,
    allow_extra: bool = False,
    variant: str | None = None,
) -> MotionAdapter:
    """Read a motion module, in evaluation mode on the CPU.

    Args:
        path: A file in any of the layouts that `detect` knows, or a folder in diffusers' layout.
        dtype: To convert to; None keeps what is stored, bit for bit.
        allow_pickle: Whether a `.ckpt` or the like may be read, see `open_weights`.
        allow_extra: Whether surplus tensors are left out instead of refused.
        variant: Of a folder's weights, see `find_weights`.

    Raises:
        ModelLoadError: One line naming the file, and the tensors that are missing, surplus, of another shape,
            not floating point or not finite.
    """
    found = detect(path, allow_pickle=allow_pickle, variant=variant)
    return load_motion(found, dtype, allow_extra=allow_extra)


def load_motion(
    found: MotionFile, dtype: torch.dtype | None = None, *, allow_extra: bool = False
) -> MotionAdapter:
    """Load what `detect` has looked at; arguments and errors as `read_motion_checkpoint`."""
    stored, where = found.weights, str(found.path)
    if dtype is None and found.path.is_dir():  # of mixed precisions the widest
        known = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
        dtype = known.get(found.dtypes[0], torch.float32) if len(found.dtypes) == 1 else torch.float32
    if found.path.is_dir():
        adapter = load_diffusers(
            MotionAdapter,
            found.path,
            dtype or torch.float32,
            allow_extra=allow_extra,
            variant=stored.variant,
            norm_scope=found.config["norm_scope"],
            family=found.family,
        )
        assert isinstance(adapter, MotionAdapter)
        return adapter
    if found.layout.num_attentions != 2:
        raise ModelLoadError(
            f"{where}: its temporal layers have {found.layout.num_attentions} attentions each, but only "
            "those with 2 are supported, as all published motion modules have"
        )
    usual = {
        name: field.default for name, field in inspect.signature(MotionAdapter.__init__).parameters.items()
    }
    check_config(found.config, usual, len(stored.tensors), where)
    adapter = build(lambda fields: MotionAdapter(**fields), found.config, usual, where, "what it says")
    names = found.layout.stored_names
    described = {name: stored.tensors[stored_as[0]] for name, stored_as in names.items()}
    tables = {}
    if found.layout.num_positions is None:
        shapes = {name: t.shape for name, t in adapter.state_dict().items() if name.endswith(POSITIONS)}
        tables = {name: SinusoidalPositions(width, num).pe for name, (_, num, width) in shapes.items()}
        described |= {name: StoredTensor("F32", tuple(shape)) for name, shape in shapes.items()}
    compare_weights(replace(stored, tensors=described), adapter, allow_extra, "the rest of the file")
    loaded = stored.load()
    tensors = {}
    for name in adapter.state_dict().keys() - tables.keys():
        first, *others = (loaded[stored_as] for stored_as in names[name])
        if not all(torch.equal(first, other) for other in others):
            raise ModelLoadError(
                f"{where}: {' and '.join(names[name])} differ, but the attentions of a layer share one table "
                "of positions; the file is damaged"
            )
        tensors[name] = first
    return fill(adapter, tensors | tables, dtype, where)


def write_original_layout(adapter: MotionAdapter, path: Path | str, *, overwrite: bool = True) -> None:
    """Write a motion module in AnimateDiff's layout, as safetensors, in its present precision.

    The position tables are written too, once for each attention, because other programs tell versions apart
    by them. What shapes cannot tell (heads, groups, norms, family) goes into the file's metadata.

    Args:
        adapter: Of any shape; programs other than ours expect 8 heads and 32 groups.
        path: Appears only when it is complete.
        overwrite: False refuses an existing file.

    Raises:
        FileExistsError: See `overwrite`.
        OSError: No space, no permission.
    """
    tensors = {
        stored: tensor.detach().cpu().contiguous().clone()
        for name, tensor in adapter.state_dict().items()
        for stored in original_names(name)
    }
    config = {key: value for key, value in adapter.config.items() if not key.startswith("_")}
    metadata = {"format": "pt", CONFIG_TAG: json.dumps(config, sort_keys=True)}
    with atomic_path(path, overwrite=overwrite) as part:
        save_file(tensors, part, metadata)


# diffusers' motion U-Net taken apart into the image U-Net and the motion adapter that it was made from.
#
# A folder that `diffusers.AnimateDiffPipeline` saved holds the two fused, with every weight under its old
# name.


_IMAGE_BLOCKS = {
    "DownBlockMotion": "DownBlock2D",
    "CrossAttnDownBlockMotion": "CrossAttnDownBlock2D",
    "UpBlockMotion": "UpBlock2D",
    "CrossAttnUpBlockMotion": "CrossAttnUpBlock2D",
}


def split_motion_unet(
    motion_unet: UNetMotionModel, norm_scope: str
) -> tuple[UNet2DConditionModel, MotionAdapter]:
    """Split a `UNetMotionModel`; the weights are shared with it, not copied."""
    config = dict(motion_unet.config)
    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters)
    image_config = {key: value for key, value in config.items() if key in known}
    image_config |= {
        "down_block_types": tuple(_IMAGE_BLOCKS[name] for name in config["down_block_types"]),
        "up_block_types": tuple(_IMAGE_BLOCKS[name] for name in config["up_block_types"]),
        "attention_head_dim": config[
            "num_attention_heads"
        ],  # diffusers' old misnomer for the number of heads
        "num_attention_heads": None,
    }
    unet = UNet2DConditionModel(**image_config)
    adapter = MotionAdapter(
        block_out_channels=config["block_out_channels"],
        motion_layers_per_block=config["layers_per_block"],
        motion_transformer_layers_per_block=config["temporal_transformer_layers_per_block"],
        motion_mid_block_layers_per_block=config["mid_block_layers"],
        motion_transformer_layers_per_mid_block=config["temporal_transformer_layers_per_mid_block"],
        motion_num_attention_heads=config["motion_num_attention_heads"],
        motion_norm_num_groups=config["norm_num_groups"],
        motion_max_seq_length=config["motion_max_seq_length"],
        use_motion_mid_block=config["use_motion_mid_block"],
        norm_scope=norm_scope,
    )
    weights = motion_unet.state_dict()
    temporal = {name: tensor for name, tensor in weights.items() if ".motion_modules." in name}
    adapter.load_state_dict(temporal, assign=True)
    unet.load_state_dict({k: v for k, v in weights.items() if k not in temporal}, assign=True)
    return unet.eval(), adapter.eval()


# Motion LoRAs: low-rank changes to temporal attention, in the layouts of AnimateDiff, diffusers and peft.
#
# A change is weight · alpha / rank · up @ down. AnimateDiff's files, and diffusers' of them, know no alpha:
# there the factor is the user's weight alone. peft's metadata and `.alpha` tensors, where there are, count.


PEFT_TAG = "lora_adapter_metadata"

_PREFIX = re.compile(r"^(module\.|unet\.|motion_adapter\.|base_model\.model\.)+")
_OLD_NAME = re.compile(r"\.(processor\.)?(?P<layer>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight$")
_NEW_NAME = re.compile(
    r"\.(lora_(?P<letter>[AB])(\.default)?|lora[._](?P<part>down|up)|lora_linear_layer\.(?P<long>down|up))"
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


def read_motion_lora(path: Path | str, *, allow_pickle: bool = False) -> dict[str, LowRank]:
    """Read a motion LoRA: its changes, by our name of the layer."""
    file = open_weights(path, allow_pickle=allow_pickle)
    return gather_motion_lora(file, file.load())


def check_low_rank(file: StoredWeights, names: Iterable[str]) -> None:
    """Refuse a LoRA's halves that are no pair, or of other shapes than halves have, and alphas of many.

    Args:
        file: The LoRA.
        names: Of the tensors to look at; what is neither half nor alpha is left to whoever reads it.
    """
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in names:
        layer, part = _parsed(name)
        if part is not None:
            layers.setdefault(layer, {})[part] = file.tensors[name].shape
    for layer, shapes in layers.items():
        if prod(shapes.get("alpha", ())) != 1:
            raise ModelLoadError(
                f"{file.path}: the alpha of {layer} must be one number, but has the shape {shapes['alpha']}; "
                "save the LoRA again"
            )
        down, up = shapes.get("down", ()), shapes.get("up", ())
        fits = len(down) == len(up) in {2, 4} and down[0] == up[1] and prod(down) * prod(up) > 0
        if shapes.keys() != {"alpha"} and not fits:
            raise ModelLoadError(
                f"{file.path}: {layer} lacks one half of its change, or halves of one rank: they have the "
                f"shapes {down or 'none'} and {up or 'none'}; save the LoRA again"
            )


def gather_motion_lora(file: StoredWeights, tensors: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Pair the tensors of a motion LoRA; errors as `read_motion_lora`."""
    check_low_rank(file, tensors)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = _parsed(name)
        if part is None:
            raise ModelLoadError(f"{file.path}: {name} is not part of a motion LoRA; give a file that is one")
        parts.setdefault(layer, {})[part] = tensor
    alphas = _peft_alphas(file)
    pairs = {}
    for layer, found in parts.items():
        if "down" not in found or found["down"].ndim != 2:
            raise ModelLoadError(f"{file.path}: {layer} is no change of a matrix; give a motion LoRA")
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
    """Write a motion LoRA as safetensors, its scale multiplied into `up` since neither layout knows alpha."""
    tensors = {}
    for layer, change in pairs.items():
        halves = {"down": change.down, "up": change.up if change.scale == 1 else change.up * change.scale}
        for part, tensor in halves.items():
            tensors[_written_name(layer, part, layout)] = tensor.detach().cpu().contiguous().clone()
    with atomic_path(path, overwrite=overwrite) as file:
        save_file(tensors, file, {"format": "pt"})


def add_motion_lora(adapter: MotionAdapter, pairs: Mapping[str, LowRank], weight: float, where: str) -> None:
    """Add a motion LoRA's changes to an adapter's weights, each computed in float32 and rounded once."""
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
    if ".attention_blocks." not in layer and ".attn" not in layer:
        raise ModelLoadError(
            f"AnimateDiff's layout holds corrections of attention alone, not of {layer}; use --to diffusers"
        )
    (name,) = original_names(f"{layer}.weight")
    attention, _, projection = name.removesuffix(".weight").replace(".to_out.0", ".to_out").rpartition(".")
    return f"{attention}.processor.{projection}_lora.{part}.weight"


def _peft_alphas(file: StoredWeights) -> dict[str, float]:
    """What peft's metadata says of alpha: for all layers under "", and for layers of their own."""
    text = file.metadata.get(PEFT_TAG)
    if text is None:
        return {}
    try:
        values: Any = parse_json(text, strict=False)
        found = {key.removeprefix("unet."): value for key, value in values.items()}
        own = {str(layer): float(alpha) for layer, alpha in (found.get("alpha_pattern") or {}).items()}
        return own | {"": float(found["lora_alpha"])}
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ModelLoadError(f"{file.path}: its {PEFT_TAG} is damaged; save the LoRA again") from None
