"""Temporal layers in files: their layouts, their families, and what a file is; takes no torch."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from video_diffusion.loading.weights import (
    ModelLoadError,
    StoredTensor,
    StoredWeights,
    find_weights,
    open_weights,
    read_json,
)
from video_diffusion.settings import parse_json

_COMMON: Mapping[str, Any] = {"beta_start": 0.00085, "steps_offset": 1, "clip_sample": False}
_LINEAR: Mapping[str, Any] = {
    **_COMMON, "beta_end": 0.012, "beta_schedule": "linear", "timestep_spacing": "linspace",
}  # fmt: skip
_SCALED: Mapping[str, Any] = {**_LINEAR, "beta_schedule": "scaled_linear"}
_USUAL: Mapping[str, Any] = {
    "num_frames": 16, "fps": "8", "num_inference_steps": 25, "guidance_scale": 7.5, "scheduler": "ddim",
}  # fmt: skip


@dataclass(frozen=True)
class MotionFamily:
    """One kind of published temporal layers.

    Attributes:
        title: For people.
        base: The image models it was trained with.
        schedule: Scheduler fields that stand in place of the image model's own.
        defaults: Usual generation settings.
        resnet_norm_scope: What the image U-Net's own resnet norms averaged over in training: "frame", or
            "clip" as only AnimateDiff's first version did.
    """

    title: str
    base: str = "Stable Diffusion 1.x"
    schedule: Mapping[str, Any] = field(default_factory=lambda: _LINEAR)
    defaults: Mapping[str, Any] = field(default_factory=lambda: _USUAL)
    resnet_norm_scope: str = "frame"


FAMILIES: Mapping[str, MotionFamily] = {
    "animatediff-v1": MotionFamily("AnimateDiff v1", resnet_norm_scope="clip"),
    "animatediff-v2": MotionFamily("AnimateDiff v2"),
    "animatediff-v3": MotionFamily("AnimateDiff v3"),
    "long-animatediff": MotionFamily("LongAnimateDiff", defaults={**_USUAL, "num_frames": 64}),
    "pia": MotionFamily("PIA (clips that start from an image)"),
    "animatediff-sdxl": MotionFamily(
        "AnimateDiff SDXL-beta", base="Stable Diffusion XL", schedule={**_SCALED, "beta_end": 0.02}
    ),
    "hotshot-xl": MotionFamily(
        "Hotshot-XL",
        base="Stable Diffusion XL",
        schedule={**_SCALED, "timestep_spacing": "leading"},
        defaults={**_USUAL, "num_frames": 8, "num_inference_steps": 30, "scheduler": "euler_a"},
    ),
    "animatelcm": MotionFamily(
        "AnimateLCM",
        schedule={**_LINEAR, "original_inference_steps": 100},
        defaults={**_USUAL, "num_inference_steps": 6, "guidance_scale": 1.5, "scheduler": "lcm"},
    ),
    "animatediff-lightning": MotionFamily(
        "AnimateDiff-Lightning",
        schedule={**_LINEAR, "timestep_spacing": "trailing"},
        defaults={**_USUAL, "num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "euler"},
    ),
}


# How temporal layers are named in files, and what their names and shapes alone tell; takes no torch.
#
# Three layouts carry the same tensors: AnimateDiff's own, Hotshot-XL's, and that of diffusers, which is ours.


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
    """Find out what kind of motion module some tensors are, and how it is built."""
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


# What a file or folder with temporal layers is: its family, and how to build it; takes no torch.


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
    weights: StoredWeights
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
            return distilled_settings(self.config) | ({"vocabulary": words} if words else {})
        length = min(int(kind.defaults["num_frames"]), int(self.config["motion_max_seq_length"]))
        named = _LIGHTNING.search(self.path.name)
        steps = {"num_inference_steps": int(named["steps"])} if named else {}
        return {**kind.defaults, "num_frames": length, **steps}

    @property
    def schedule(self) -> dict[str, Any]:
        """Scheduler fields that it or its family was trained with; empty means the image model's own."""
        kind = FAMILIES.get(self.family or "")
        rescaled = ZERO_TERMINAL_SNR if self.config.get("zero_terminal_snr") is True else {}
        known = distilled_schedule(self.config)
        return {**({} if kind is None else kind.schedule), **rescaled, **known}


def distilled_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings that the few-step layers of that configuration are for; empty if it has others."""
    told = config.get("distilled")
    return {name: told[name] for name in _DISTILLED if name in told} if isinstance(told, Mapping) else {}


def distilled_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Scheduler fields that go with `distilled_settings`."""
    told = config.get("distilled")
    spacing = told.get("timestep_spacing") if isinstance(told, Mapping) else None
    return {"timestep_spacing": spacing} if spacing in ("trailing", "leading", "linspace") else {}


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
        weights = find_weights(path, "diffusion_pytorch_model", variant)
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


def _own_config(weights: StoredWeights) -> dict[str, Any]:
    """What a file of ours says about itself, without believing anything that its shapes tell better."""
    text = weights.metadata.get(CONFIG_TAG)
    if text is None:
        return {}
    try:
        config = parse_json(text, strict=False)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelLoadError(f"{weights.path}: its {CONFIG_TAG} is damaged; download it again")
    return config


# SparseCtrl encoders: ControlNets with temporal layers.


SPARSE_POSITIONS = 32
"""Rows of the position tables of published encoders, where a file holds none."""

_CONDITION = "controlnet_cond_embedding."
_RESNET = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")


@dataclass(frozen=True)
class SparseLayout:
    """What the tensors of a SparseCtrl encoder tell.

    Attributes:
        reads: Images ("rgb", through the autoencoder) or drawings ("scribble", as pixels).
        config: Fields of diffusers' `SparseControlNetModel` that follow from the shapes; those that do not,
            such as heads, are Stable Diffusion 1.x's.
        stored_names: diffusers' name of each tensor to the name it is stored under.
        has_positions: Whether position tables are stored.
    """

    reads: Literal["rgb", "scribble"]
    config: Mapping[str, Any]
    stored_names: Mapping[str, str]
    has_positions: bool


def is_sparse_control(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a SparseCtrl encoder's: a ControlNet's with temporal layers."""
    names = list(names)
    return any(_CONDITION in name for name in names) and any(".motion_modules." in name for name in names)


def describe_sparse_layout(tensors: Mapping[str, StoredTensor], where: str) -> SparseLayout:
    """Find out how a SparseCtrl encoder is built."""
    if not is_sparse_control(tensors):
        raise ModelLoadError(
            f"{where}: not a SparseCtrl encoder (its tensors are {', '.join(sorted(tensors)[:3])}, …); "
            "a ControlNet is given as controlnet, temporal layers as motion_adapter"
        )
    stored_names = {present_name(name): name for name in tensors}
    shapes = {ours: tensors[name].shape for ours, name in stored_names.items()}
    layers = [found for found in map(_RESNET.fullmatch, shapes) if found is not None]
    num_blocks = 1 + max((int(found[1]) for found in layers), default=-1)
    embeddings = [shapes[name] for name in shapes if name.endswith(".attn2.to_k.weight")]
    is_simple = f"{_CONDITION}weight" in shapes
    conv = shapes.get(f"{_CONDITION}weight" if is_simple else f"{_CONDITION}conv_in.weight", ())
    if not num_blocks or not embeddings or len(conv) != 4:
        raise ModelLoadError(f"{where}: this SparseCtrl encoder is not whole; download it again")
    tables = [shape for name, shape in shapes.items() if name.endswith(POSITIONS) and len(shape) == 3]
    spatial = next((n for n in shapes if ".attentions." in n and n.endswith(".proj_in.weight")), "")
    config: dict[str, Any] = {
        "block_out_channels": tuple(
            shapes[f"down_blocks.{block}.resnets.0.conv1.weight"][0] for block in range(num_blocks)
        ),
        "layers_per_block": 1 + max(int(found[2]) for found in layers),
        "down_block_types": tuple(
            "CrossAttnDownBlockMotion"
            if any(name.startswith(f"down_blocks.{block}.attentions.") for name in shapes)
            else "DownBlockMotion"
            for block in range(num_blocks)
        ),
        "cross_attention_dim": embeddings[0][1],
        "use_linear_projection": len(shapes.get(spatial, ())) == 2,
        "conditioning_channels": conv[1] - 1,  # the last one is the mask
        "use_simplified_condition_embedding": is_simple,
        "motion_max_seq_length": tables[0][1] if tables else SPARSE_POSITIONS,
    }
    if not is_simple:
        stack = [conv[0]]
        while f"{_CONDITION}blocks.{2 * len(stack) - 1}.weight" in shapes:
            stack.append(shapes[f"{_CONDITION}blocks.{2 * len(stack) - 1}.weight"][0])
        config["conditioning_embedding_out_channels"] = tuple(stack)
    return SparseLayout("rgb" if is_simple else "scribble", config, stored_names, bool(tables))


# ControlNets in one file, told from others by what reads their images.


_HINT = (
    ("input_hint_block.{}.weight", range(0, 32, 4)),  # as published first; the last one is not of this row
    ("controlnet_cond_embedding.blocks.{}.weight", range(1, 16, 2)),
)


def controlnet_widths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Channels of the images that a ControlNet reads, then of its layers that make them smaller; or none."""
    original = "input_hint_block.0.weight" in shapes
    first = shapes.get(
        "input_hint_block.0.weight" if original else "controlnet_cond_embedding.conv_in.weight"
    )
    if first is None:
        return ()
    pattern, numbers = _HINT[0] if original else _HINT[1]
    names = [pattern.format(number) for number in (numbers[1:] if original else numbers)]
    return first[1], first[0], *(shapes[name][0] for name in names if name in shapes)
