"""What a weights file or folder is and how to use it, from its tensors' names and shapes; takes no torch."""

import shlex
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from video_diffusion.loading.embeddings import WIDTHS, embedding_names, is_embedding
from video_diffusion.loading.motion import (
    FAMILIES,
    MotionFamily,
    MotionFile,
    describe_sparse_layout,
    detect,
    is_motion_module,
    is_sparse_control,
)
from video_diffusion.loading.single_file_config import (
    SINGLE_FILE_KINDS,
    lacking_parts,
    single_file_kind,
)
from video_diffusion.loading.sources import ip_adapter_facts, is_ip_adapter
from video_diffusion.loading.weights import PICKLE_SUFFIXES, StoredTensor, open_weights
from video_diffusion.video import weights_sha256

_BASES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}

HINTS = ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight")
UNET_WIDTHS = {
    "Stable Diffusion 1.x": (320, 640, 1280, 1280),
    "Stable Diffusion 2.x": (320, 640, 1280, 1280),
    "Stable Diffusion XL": (320, 640, 1280),
}


def kind_of_weights(tensors: Mapping[str, StoredTensor]) -> str:
    """Name what some tensors are, by their names and shapes."""
    names = list(tensors)
    if is_ip_adapter(tensors):
        return "IP-Adapter"
    if any("lora" in name.lower() for name in names):
        num_temporal = sum(".motion_modules." in name for name in names)
        return (
            "motion LoRA"
            if num_temporal == len(names)
            else "motion and image LoRA"
            if num_temporal
            else "LoRA"
        )
    kinds = {
        "SparseCtrl encoder": is_sparse_control(names),
        "ControlNet": any(name.endswith(HINTS) for name in names),
        "image model in one file": single_file_kind(tensors) is not None,
        "embedding": is_embedding(tensors),
        "motion module": is_motion_module(names),
    }
    return next((kind for kind, is_one in kinds.items() if is_one), "weights")


def describe_weights(path: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Facts about a weights file, or about a motion adapter's folder; `use` is a command line."""
    if path.is_dir():
        return _motion_module(detect(path))
    file = open_weights(path, allow_pickle=allow_pickle)
    kind = kind_of_weights(file.tensors)
    if kind == "motion module":
        return _motion_module(detect(path, allow_pickle=allow_pickle))
    describe = {
        "IP-Adapter": _ip_adapter,
        "SparseCtrl encoder": _sparse_control,
        "ControlNet": _controlnet,
        "image model in one file": _base_model,
        "embedding": _embedding,
    }.get(kind, _lora)
    return {
        "path": str(path),
        "kind": kind,
        **({"use": None} if kind == "weights" else describe(path, file.tensors)),
        "num_tensors": len(file.tensors),
        "num_parameters": sum(prod(tensor.shape) for tensor in file.tensors.values()),
        "dtypes": sorted({tensor.dtype for tensor in file.tensors.values()}),
        "sha256": weights_sha256(path),
    }


def _motion_module(found: MotionFile) -> dict[str, Any]:
    path = found.path
    kind = FAMILIES.get(found.family or "", MotionFamily("unknown", base="unknown"))
    layout = found.layout
    return {
        "path": str(path),
        "kind": "motion module",
        "family": found.family or "none of the published",
        "title": kind.title if found.family else None,
        "base": kind.base,
        "layout": layout.layout,
        "block_out_channels": list(found.config["block_out_channels"]),
        "max_num_frames": found.config["motion_max_seq_length"],
        "positions_stored": layout.num_positions is not None,
        "mid_block": found.config["use_motion_mid_block"],
        "attentions_per_layer": layout.num_attentions,
        "layers_per_block": found.config["motion_layers_per_block"],
        "conv_in_channels": found.config.get("conv_in_channels"),
        "norm_scope": found.config["norm_scope"],
        "resnet_norm_scope": found.config["resnet_norm_scope"],
        "schedule": found.schedule or "the image model's own",
        "usual_settings": found.defaults or "the image model's own",
        "num_tensors": len(found.weights.tensors),
        "num_parameters": found.num_parameters,
        "dtypes": found.dtypes,
        "sha256": weights_sha256(path),
        "use": _use(f"--model MODEL --motion-adapter {shlex.quote(str(path))}", path),
    }


def _lora(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    temporal = [name for name in tensors if ".motion_modules." in name]
    ranks = {
        min(tensor.shape)
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2
        and name.endswith((".lora_A.weight", "lora.down.weight", "lora_down.weight"))
    }
    widths = {
        tensor.shape[1]
        for name, tensor in tensors.items()
        if len(tensor.shape) > 1
        and "attn2" in name.replace(".", "_").replace("attention_blocks", "")
        and "to_k" in name
        and name.endswith((".lora_A.weight", "lora.down.weight", "lora_down.weight"))
        and name not in temporal
    }
    return {
        "base": next((_BASES[width] for width in widths if width in _BASES), None),
        "rank": sorted(ranks),
        "use": _use(f"--lora {shlex.quote(str(path))}:1.0", path),
    }


def _sparse_control(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    layout = describe_sparse_layout(tensors, str(path))
    place = shlex.quote(str(path))
    return {
        "reads": layout.reads,
        "base": _BASES.get(layout.config["cross_attention_dim"]),
        "block_out_channels": list(layout.config["block_out_channels"]),
        "max_num_frames": layout.config["motion_max_seq_length"],
        "positions_stored": layout.has_positions,
        "use": _use(
            f"--model MODEL --motion-adapter ADAPTER --sparsectrl {place} --sparse-image '0: IMAGE'", path
        ),
    }


def _controlnet(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    texts = [tensor for name, tensor in tensors.items() if name.endswith("attn2.to_k.weight")]
    widths = {tensor.shape[-1] for tensor in texts if tensor.shape}
    place = shlex.quote(str(path))
    return {
        "base": next((_BASES[width] for width in widths if width in _BASES), None),
        "use": _use(f"--model MODEL --controlnet {place} --control-video FRAMES", path),
    }


def _base_model(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    kind, lacking = single_file_kind(tensors), lacking_parts(tensors)
    flags = "".join(f" --{part.replace('_', '-')} PATH" for part in lacking)
    base = None if kind is None else SINGLE_FILE_KINDS[kind].title
    return {
        "base": base,
        "temporal_layers": "none",
        "fitting_motion_modules": fitting_families(base),
        "lacks": list(lacking.values()) or None,
        "use": _use(f"--model {shlex.quote(str(path))} --motion-adapter ADAPTER{flags}", path),
    }


def fitting_families(base: str | None, block_out_channels: Sequence[int] | None = None) -> list[str] | None:
    """Titles of the published motion modules for an image model; None if it is of no known kind.

    Args:
        base: See `base_of`.
        block_out_channels: Of its U-Net; None takes for granted that they are the base's own.
    """
    if base is None or (
        block_out_channels is not None and tuple(block_out_channels) != UNET_WIDTHS.get(base)
    ):
        return None
    return [family.title for family in FAMILIES.values() if family.base == base] or ["none"]


def base_of(unet: Mapping[str, Any]) -> str | None:
    """Name the kind of Stable Diffusion that an image U-Net's configuration is of; None if it is none."""
    base = _BASES.get(unet.get("cross_attention_dim") or 0)
    is_xl = unet.get("addition_embed_type") == "text_time"
    return base if is_xl == (base == "Stable Diffusion XL") and unet.get("in_channels") == 4 else None


def _ip_adapter(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    found = ip_adapter_facts(tensors, str(path))
    reads = {"image": "an image's vector", "face": "a face identity (FaceID), which nothing here computes"}
    use = _use(f"--model MODEL --ip-adapter {shlex.quote(str(path))} --ip-image IMAGE", path)
    return {
        "reads": reads.get(found.kind, "an image's patches"),
        "image_width": found.image_width,
        "base": _BASES.get(found.text_width),
        "num_tokens": found.num_tokens,
        "use": None if found.kind == "face" else use,
    }


def _embedding(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    names = embedding_names(tensors) or ()
    shapes = [tensors[name].shape for name in names]
    token = names[0] if names[0].startswith("<") else None
    place = shlex.quote(str(path) if token is None else f"{path}={token}")
    return {
        "base": WIDTHS.get(shapes[-1][-1]),
        "num_vectors": 1 if len(shapes[0]) == 1 else shapes[0][0],
        "widths": [shape[-1] for shape in shapes],
        "word": token or path.stem,
        "use": _use(f"--embedding {place}", path),
    }


def _use(flags: str, path: Path) -> str:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        safe = shlex.quote(str(path.with_suffix(".safetensors")))
        return f"video-diffusion convert {shlex.quote(str(path))} {safe} --allow-pickle"
    return f"video-diffusion generate PROMPT {flags}"
