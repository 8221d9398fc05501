"""ControlNets and SparseCtrl encoders, from folders, hub ids and files, checked against their image model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel

from video_diffusion.loading.components import load_diffusers
from video_diffusion.loading.model import ModelParts
from video_diffusion.loading.motion import POSITIONS, present_name
from video_diffusion.loading.sources import ModelSource
from video_diffusion.loading.weights import (
    ModelLoadError,
    StoredTensor,
    StoredWeights,
    compare_weights,
    open_weights,
    read_json,
)
from video_diffusion.models import latent_scale
from video_diffusion.models.control import normalise_each_frame
from video_diffusion.models.temporal import SinusoidalPositions

UNSTORED_POSITIONS = 32
"""Rows of the position tables of published encoders, where a file holds none."""

_CONDITION = "controlnet_cond_embedding."
_RESNET = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")


@dataclass(frozen=True)
class SparseLayout:
    """What the tensors of a SparseCtrl encoder tell.

    Attributes:
        reads: Pictures ("rgb", through the autoencoder) or drawings ("scribble", as pixels).
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
        "motion_max_seq_length": tables[0][1] if tables else UNSTORED_POSITIONS,
    }
    if not is_simple:
        stack = [conv[0]]
        while f"{_CONDITION}blocks.{2 * len(stack) - 1}.weight" in shapes:
            stack.append(shapes[f"{_CONDITION}blocks.{2 * len(stack) - 1}.weight"][0])
        config["conditioning_embedding_out_channels"] = tuple(stack)
    return SparseLayout("rgb" if is_simple else "scribble", config, stored_names, bool(tables))


# ControlNets and SparseCtrl encoders, from folders, hub ids and files, checked against their image model.


NORM_SCOPES = ("frame", "clip")
_SAME_AS_UNET = {
    "cross_attention_dim": "reads text of width",
    "block_out_channels": "has blocks of widths",
    "layers_per_block": "has layers per block:",
}


def load_controlnet(source: ModelSource, parts: ModelParts) -> ControlNetModel:
    """Load a ControlNet for a model, in its precision, in evaluation mode on the CPU.

    Args:
        source: A folder in diffusers' layout, see `find_model`.
        parts: The model that it is to steer.

    Raises:
        ModelLoadError: One line saying which file or tensor is wrong, or how the two do not fit together.
    """
    place = source.folder
    if place.is_file():
        raise ModelLoadError(
            f"{place}: a ControlNet must be a folder in diffusers' layout, with config.json, not one file; a "
            "SparseCtrl encoder's file is given as sparsectrl"
        )
    network = load_diffusers(ControlNetModel, place, parts.unet.dtype, variant=source.variant)
    _check_base(network.config, parts, place)
    if network.config.global_pool_conditions:
        raise ModelLoadError(
            f"{place}: this ControlNet shuffles content instead of placing it, which is not supported"
        )
    _check_pictures(network.config.conditioning_channels, 3, place)
    _check_stride(network.config, parts, place)
    return network


def load_sparse_control(source: ModelSource, parts: ModelParts) -> SparseControlNetModel:
    """Load a SparseCtrl encoder for a model; arguments and errors as in `load_controlnet`.

    Its temporal layers normalise each frame alone, as published weights were trained, unless config.json says
    `"norm_scope": "clip"`, which is what diffusers computes.

    Args:
        source: A folder in diffusers' layout; or a `.safetensors` file in AnimateDiff's, or its folder.
        parts: See above.
    """
    place = _file_or_folder(source)
    if place.is_file():
        network, norm_scope = _from_file(place, parts.unet.dtype), "frame"
    else:
        norm_scope = read_json(place / "config.json").get("norm_scope", "frame")
        if norm_scope not in NORM_SCOPES:
            raise ModelLoadError(f"{place}: norm_scope must be frame or clip, but is {norm_scope!r}")
        network = load_diffusers(
            SparseControlNetModel,
            place,
            parts.unet.dtype,
            variant=source.variant,
            our_fields={"norm_scope"},
        )
    if norm_scope == "frame":
        normalise_each_frame(network)
    _check_base(network.config, parts, place)
    if network.config.use_simplified_condition_embedding:
        _check_pictures(network.config.conditioning_channels, parts.vae.config.latent_channels, place)
    else:
        _check_pictures(network.config.conditioning_channels, 3, place)
        _check_stride(network.config, parts, place)
    return network


def _file_or_folder(source: ModelSource) -> Path:
    place = source.folder
    if place.is_file() or (place / "config.json").is_file():
        return place
    files = sorted(place.glob("*.safetensors"))
    if len(files) != 1:
        raise ModelLoadError(
            f"{source.name}: holds no config.json and {len(files)} safetensors files; give a SparseCtrl "
            "encoder's folder in diffusers' layout, or its file"
        )
    return files[0]


def _from_file(path: Path, dtype: torch.dtype) -> SparseControlNetModel:
    """An encoder in AnimateDiff's own layout."""
    file = open_weights(path)
    layout = describe_sparse_layout(file.tensors, str(path))
    try:
        with torch.device("meta"):
            network: Any = SparseControlNetModel(**layout.config)
    except Exception as error:  # whatever wrong shapes lead to, deep inside the libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(f"{path}: cannot be built from what its shapes say ({reason})") from None
    present = {ours: file.tensors[stored] for ours, stored in layout.stored_names.items()}
    tables = {} if layout.has_positions else _position_tables(network)
    present |= {name: StoredTensor("F32", tuple(table.shape)) for name, table in tables.items()}
    compare_weights(StoredWeights(path, present, None, "the rest of the file"), network, allow_extra=False)
    stored = file.load()
    tensors = {ours: stored[name] for ours, name in layout.stored_names.items()}
    network.load_state_dict(tensors | tables, assign=True)
    return torch.nn.Module.to(network, dtype=dtype).eval()


def _position_tables(network: Any) -> dict[str, torch.Tensor]:
    return {
        name: SinusoidalPositions(tensor.shape[2], tensor.shape[1]).pe
        for name, tensor in network.state_dict().items()
        if name.endswith("pos_embed.pe")
    }


def _check_base(config: Any, parts: ModelParts, place: Path) -> None:
    unet = parts.unet.config
    if unet.addition_embed_type == "text_time":
        raise ModelLoadError(
            f"{place}: ControlNets for Stable Diffusion XL are not supported; use a model of Stable "
            "Diffusion 1.x or 2.x"
        )
    for field, words in _SAME_AS_UNET.items():
        own, expected = _plain(config[field]), _plain(unet[field])
        if own != expected:
            raise ModelLoadError(
                f"{place}: is for an image model that {words} {own}, but this one's is {expected}; use one "
                "for the same base model"
            )


def _check_pictures(own: int, expected: int, place: Path) -> None:
    if own != expected:
        raise ModelLoadError(f"{place}: must read pictures of {expected} channels, but reads {own}")


def _check_stride(config: Any, parts: ModelParts, place: Path) -> None:
    own = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    if own != latent_scale(parts.vae):
        raise ModelLoadError(
            f"{place}: shrinks pictures {own} times, but this model's latents are {latent_scale(parts.vae)} "
            "times smaller; use one for the same base model"
        )


def _plain(value: Any) -> Any:
    """A number for all blocks, or one for each; a list of equal numbers is one number."""
    if isinstance(value, list | tuple):
        return value[0] if len(set(value)) == 1 else tuple(value)
    return value
