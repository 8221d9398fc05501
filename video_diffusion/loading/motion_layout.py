"""How temporal layers are named in files, and what their names and shapes alone tell; takes no torch.

Three layouts carry the same tensors: AnimateDiff's own, Hotshot-XL's, and that of diffusers, which is ours.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.weight_files import StoredTensor

Layout = Literal["animatediff", "hotshot", "diffusers"]

POSITIONS = "pos_embed.pe"
# AnimateLCM's files hold no position tables; its own code computes 64 rows.
UNSTORED_POSITIONS = 64

_ORIGINAL_NAMES = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
_HOTSHOT_LAYER = re.compile(r"\.temporal_attentions\.(\d+)\.")
_LAYER = re.compile(r"\.motion_modules\.(\d+)\.")
_POSITIONS = re.compile(r"\.attention_blocks\.\d+\.pos_encoder\.(pe|positional_encoding)$")
_PLACE = re.compile(
    r"(down_blocks\.(?P<down>\d+)|up_blocks\.\d+|mid_block)\.motion_modules\.(?P<layer>\d+)\."
    r"(transformer_blocks\.(?P<depth>\d+)\.(attn(?P<attention>\d+)\.)?)?"
)


@dataclass(frozen=True)
class MotionLayout:
    """What the tensors of a motion module tell.

    Attributes:
        layout: How they are named.
        family: A key of `motion_families.FAMILIES`; None if it is none of them.
        config: Fields of `MotionAdapter` that follow from the shapes.
        num_positions: Rows of the stored position tables; None if there are none.
        num_attentions: Temporal self-attentions in each transformer block.
        stored_names: Our name of each tensor to the names it is stored under: a position table is stored
            once for each attention.
    """

    layout: Layout
    family: str | None
    config: Mapping[str, Any]
    num_positions: int | None
    num_attentions: int
    stored_names: Mapping[str, tuple[str, ...]]


def is_motion_module(names: Iterable[str]) -> bool:
    """Whether tensors of these names hold temporal layers of any layout."""
    return any(".motion_modules." in name or ".temporal_attentions." in name for name in names)


def present_name(name: str) -> str:
    """Translate a tensor's name in any layout to ours."""
    name = _HOTSHOT_LAYER.sub(r".motion_modules.\1.", name.removeprefix("module."))
    if _POSITIONS.search(name):
        return _POSITIONS.sub(f".{POSITIONS}", name).replace(".temporal_transformer.", ".")
    for original, present in _ORIGINAL_NAMES:
        name = name.replace(original, present)
    return name


def original_names(name: str, num_attentions: int = 2) -> tuple[str, ...]:
    """Translate our name of a tensor to AnimateDiff's; a position table goes to every attention."""
    if name.startswith("conv_in."):
        return (name,)
    name = _LAYER.sub(r".motion_modules.\1.temporal_transformer.", name)
    if name.endswith(f".{POSITIONS}"):
        block = name.removesuffix(f".{POSITIONS}")
        return tuple(f"{block}.attention_blocks.{i}.pos_encoder.pe" for i in range(num_attentions))
    for original, present in _ORIGINAL_NAMES[1:]:
        name = name.replace(present, original)
    return (name,)


def describe_layout(tensors: Mapping[str, StoredTensor], where: str) -> MotionLayout:
    """Find out what kind of motion module some tensors are, and how it is built.

    Args:
        tensors: By the names they are stored under.
        where: The file, for messages.

    Raises:
        ModelLoadError: Not a motion module, or one that lacks what tells how it is built.
    """
    refused = _other_kind(tensors)
    if refused:
        raise ModelLoadError(f"{where}: {refused}")
    stored_names: dict[str, tuple[str, ...]] = {}
    for name in tensors:
        stored_names[present_name(name)] = (*stored_names.get(present_name(name), ()), name)
    shapes = {ours: tensors[stored[0]].shape for ours, stored in stored_names.items()}
    places = [found for found in map(_PLACE.match, shapes) if found is not None]
    num_blocks = 1 + max((int(place["down"]) for place in places if place["down"]), default=-1)
    config = _sizes(places, shapes, num_blocks, where)
    tables = {shape[1] for name, shape in shapes.items() if name.endswith(POSITIONS) and len(shape) == 3}
    num_positions = min(tables) if tables else None
    config["motion_max_seq_length"] = UNSTORED_POSITIONS if num_positions is None else num_positions
    if "conv_in.weight" in shapes:
        config["conv_in_channels"] = shapes["conv_in.weight"][1]
    layout = _layout_of(tensors)
    return MotionLayout(
        layout=layout,
        family=_family(layout, config, num_positions, num_blocks),
        config=config,
        num_positions=num_positions,
        num_attentions=max(int(place["attention"]) for place in places if place["attention"]),
        stored_names=stored_names,
    )


def _other_kind(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Say what else holds temporal layers, or that these tensors hold none."""
    names = list(tensors)
    if any("lora" in name.lower() for name in names):
        return "a motion LoRA, not a whole motion module; give it as a LoRA, beside the module it belongs to"
    if any("controlnet_cond_embedding" in name for name in names):
        return "a SparseCtrl encoder, not a motion module; give it as sparsectrl"
    if any("img_encoder." in name for name in names):
        return "AnimateLCM's image-to-video module, whose image encoder is not supported; use PIA weights"
    if not is_motion_module(names):
        shown = ", ".join(sorted(names)[:3])
        return f"holds no temporal layers (its tensors are {shown}, …); give a motion module"
    return None


def _layout_of(names: Iterable[str]) -> Layout:
    names = list(names)
    if any(".temporal_attentions." in name for name in names):
        return "hotshot"
    return "animatediff" if any(".temporal_transformer." in name for name in names) else "diffusers"


def _sizes(
    places: list[re.Match[str]], shapes: Mapping[str, tuple[int, ...]], num_blocks: int, where: str
) -> dict[str, Any]:
    def count(prefix: str, group: str) -> int:
        numbers = [int(place[group]) for place in places if place[0].startswith(prefix) and place[group]]
        return 1 + max(numbers, default=-1)

    widths, layers, depths = [], [], []
    for index in range(num_blocks):
        block = f"down_blocks.{index}."
        shape = shapes.get(f"{block}motion_modules.0.norm.weight", ())
        layers.append(count(block, "layer"))
        depths.append(count(block, "depth"))
        if len(shape) != 1 or not depths[-1]:
            raise ModelLoadError(
                f"{where}: {block}motion_modules.0 is not whole; the file is damaged, download it again"
            )
        widths.append(shape[0])
    if not num_blocks or not any(place["attention"] for place in places):
        raise ModelLoadError(f"{where}: lacks the temporal layers of the down blocks; download it again")
    mid_layers = count("mid_block.", "layer")
    config: dict[str, Any] = {
        "block_out_channels": tuple(widths),
        "motion_layers_per_block": _one_or_all(layers),
        "motion_transformer_layers_per_block": _one_or_all(depths),
        "use_motion_mid_block": mid_layers > 0,
    }
    if mid_layers:
        config["motion_mid_block_layers_per_block"] = mid_layers
        config["motion_transformer_layers_per_mid_block"] = count("mid_block.", "depth")
    return config


def _one_or_all(numbers: list[int]) -> int | tuple[int, ...]:
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _family(
    layout: Layout, config: Mapping[str, Any], num_positions: int | None, num_blocks: int
) -> str | None:
    """Name the first family whose signs are there.

    U-Nets of Stable Diffusion 1.x have four blocks, those of XL three.
    """
    is_xl, is_sd = num_blocks == 3, num_blocks == 4
    signs = {
        "hotshot-xl": is_xl and (layout == "hotshot" or num_positions == 24),
        "animatediff-sdxl": is_xl,
        "pia": is_sd and "conv_in_channels" in config,
        "animatelcm": is_sd and num_positions is None,
        "long-animatediff": is_sd and (num_positions or 0) > 32,
        "animatediff-v2": is_sd and config["use_motion_mid_block"],
        "animatediff-v1": is_sd and num_positions == 24,
        "animatediff-v3": is_sd,
    }
    return next((family for family, fits in signs.items() if fits), None)
