"""ControlNets and SparseCtrl encoders, from folders, hub ids and files, checked against their image model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel

from video_diffusion.loading.components import build, fill, load_diffusers
from video_diffusion.loading.model import ModelParts, is_xl_unet
from video_diffusion.loading.motion import controlnet_widths, describe_sparse_layout, is_motion_module
from video_diffusion.loading.sources import ModelSource
from video_diffusion.loading.weights import (
    ModelLoadError,
    StoredTensor,
    compare_weights,
    open_weights,
    read_json,
)
from video_diffusion.models import latent_scale
from video_diffusion.models.control import normalise_each_frame
from video_diffusion.models.temporal import SinusoidalPositions

ORIGINAL_CONTROLNET = "control_model."
SIZE_LAYERS = {
    f"label_emb.0.{place}.{part}": f"add_embedding.linear_{number}.{part}"
    for number, place in ((1, 0), (2, 2))
    for part in ("weight", "bias")
}
NORM_SCOPES = ("frame", "clip")
_SAME_AS_UNET = {
    "cross_attention_dim": "reads text of width",
    "block_out_channels": "has blocks of widths",
    "layers_per_block": "has layers per block:",
}


def load_controlnet(source: ModelSource, parts: ModelParts) -> ControlNetModel:
    """Load a ControlNet for a model, in its precision, in evaluation mode on the CPU.

    Args:
        source: A folder in diffusers' layout, or a file in that or in the original one; see `find_model`.
        parts: The model that it is to steer.

    Raises:
        ModelLoadError: One line saying which file or tensor is wrong, or how the two do not fit together.
    """
    place = source.folder
    if place.is_file():
        network = _controlnet_from_file(place, parts)
    else:
        network = load_diffusers(ControlNetModel, place, parts.unet.dtype, variant=source.variant)
    _check_base(network.config, parts, place)
    if network.config.global_pool_conditions:
        raise ModelLoadError(
            f"{place}: this ControlNet shuffles content instead of placing it, which is not supported"
        )
    _check_images(network, 3, parts, place)
    return network


def _controlnet_from_file(path: Path, parts: ModelParts) -> ControlNetModel:
    """A ControlNet in one file. Its layout is that of the image model, but for what reads the images."""
    from video_diffusion.loading.single_file import SingleFileLoader  # noqa: PLC0415  brings all converters

    file = open_weights(path)
    inside = any(name.startswith(ORIGINAL_CONTROLNET) for name in file.tensors)
    names = {
        name.removeprefix(ORIGINAL_CONTROLNET): name
        for name in file.tensors
        if name.startswith(ORIGINAL_CONTROLNET) or not inside
    }
    shapes = {name: file.tensors[stored].shape for name, stored in names.items()}
    widths = controlnet_widths(shapes)
    if not widths or is_motion_module(names):
        raise ModelLoadError(
            f"{path}: holds no ControlNet; give its file or its folder. A SparseCtrl encoder's file is given "
            "as sparsectrl, temporal layers as motion_adapter"
        )
    stored = file.load(names.values())
    tensors = {name: stored[own] for name, own in names.items()}
    # diffusers' conversion leaves out what reads SDXL's sizes
    size_layers = {ours: tensors[name] for name, ours in SIZE_LAYERS.items() if name in tensors}
    return SingleFileLoader(path, parts.unet.dtype, False, tensors).load(
        lambda: ControlNetModel.from_unet(
            parts.unet,
            conditioning_embedding_out_channels=widths[1:],
            conditioning_channels=widths[0],
            load_weights_from_unet=False,
        ),
        lambda network: convert_controlnet_checkpoint(dict(tensors), network.config) | size_layers,
    )


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
    reads_latents = network.config.use_simplified_condition_embedding
    _check_images(network, parts.vae.config.latent_channels if reads_latents else 3, parts, place)
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
    network = build(
        lambda fields: SparseControlNetModel(**fields), layout.config, {}, str(path), "what its shapes say"
    )
    tables = {
        name: SinusoidalPositions(tensor.shape[2], tensor.shape[1]).pe
        for name, tensor in network.state_dict().items()
        if name.endswith("pos_embed.pe") and not layout.has_positions
    }
    described = {ours: file.tensors[stored] for ours, stored in layout.stored_names.items()}
    described |= {name: StoredTensor("F32", tuple(table.shape)) for name, table in tables.items()}
    compare_weights(replace(file, tensors=described), network, False, "the rest of the file")
    stored = file.load()
    tensors = {ours: stored[name] for ours, name in layout.stored_names.items()}
    return fill(network, tensors | tables, dtype, str(path))


def _check_base(config: Mapping[str, Any], parts: ModelParts, place: Path) -> None:
    unet = parts.unet.config
    if is_xl_unet(parts.unet) and config.get("addition_embed_type") != "text_time":
        raise ModelLoadError(
            f"{place}: is not for Stable Diffusion XL, as this model is; use one for the same base model"
        )
    for field, words in _SAME_AS_UNET.items():
        # A number for all blocks, or one for each; a list of equal numbers is one number.
        own, expected = (
            values[0] if isinstance(values, list | tuple) and len(set(values)) == 1 else values
            for values in (config[field], unet[field])
        )
        own, expected = (tuple(each) if isinstance(each, list) else each for each in (own, expected))
        if own != expected:
            raise ModelLoadError(
                f"{place}: is for an image model that {words} {own}, but this one's is {expected}; use one "
                "for the same base model"
            )


def _check_images(
    network: ControlNetModel | SparseControlNetModel, num_channels: int, parts: ModelParts, place: Path
) -> None:
    """Refuse a network that reads images of other channels, or shrinks them to another size than latents."""
    config = network.config
    if config.conditioning_channels != num_channels:
        raise ModelLoadError(
            f"{place}: must read images of {num_channels} channels, but reads {config.conditioning_channels}"
        )
    if config.get("use_simplified_condition_embedding"):
        return  # it reads latents
    stride, scale = 2 ** (len(config.conditioning_embedding_out_channels) - 1), latent_scale(parts.vae)
    if stride != scale:
        raise ModelLoadError(
            f"{place}: shrinks images {stride} times, but this model's latents are {scale} times smaller; "
            "use one for the same base model"
        )
