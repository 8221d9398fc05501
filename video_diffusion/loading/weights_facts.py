"""What a weights file or folder is and how to use it, from its tensors' names and shapes; takes no torch."""

import shlex
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from video_diffusion.loading.control import describe_sparse_layout, is_sparse_control
from video_diffusion.loading.motion import FAMILIES, MotionFamily, detect, is_motion_module
from video_diffusion.loading.single_file_config import SINGLE_FILE_KINDS, single_file_kind
from video_diffusion.loading.sources import ip_adapter_facts, is_ip_adapter
from video_diffusion.loading.weights import StoredTensor, open_weights
from video_diffusion.video import weights_sha256

_BASES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def describe_weights(path: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Facts about a weights file, or about a motion adapter's folder; `use` is a command line."""
    if path.is_dir():
        return _motion_module(path, allow_pickle)
    file = open_weights(path, allow_pickle=allow_pickle)
    names = list(file.tensors)
    if is_ip_adapter(file.tensors):
        facts = _ip_adapter(path, file.tensors)
    elif any("lora" in name.lower() for name in names):
        facts = _lora(path, file.tensors)
    elif is_sparse_control(names):
        facts = _sparse_control(path, file.tensors)
    elif single_file_kind(file.tensors) is not None:
        facts = _base_model(path, file.tensors)
    elif is_motion_module(names):
        return _motion_module(path, allow_pickle)
    else:
        facts = {"kind": "weights", "use": None}
    return {"path": str(path), **facts, **_common(file.tensors), "sha256": weights_sha256(path)}


def _motion_module(path: Path, allow_pickle: bool) -> dict[str, Any]:
    found = detect(path, allow_pickle=allow_pickle)
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
        if "attn2" in name.replace(".", "_").replace("attention_blocks", "")
        and "to_k" in name
        and name.endswith((".lora_A.weight", "lora.down.weight", "lora_down.weight"))
        and name not in temporal
    }
    kind = (
        "LoRA"
        if not temporal
        else "motion LoRA"
        if len(temporal) == len(tensors)
        else "motion and image LoRA"
    )
    return {
        "kind": kind,
        "base": next((_BASES[width] for width in widths if width in _BASES), None),
        "rank": sorted(ranks),
        "use": _use(f"--lora {shlex.quote(str(path))}:1.0", path),
    }


def _sparse_control(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    layout = describe_sparse_layout(tensors, str(path))
    place = shlex.quote(str(path))
    return {
        "kind": "SparseCtrl encoder",
        "reads": layout.reads,
        "base": _BASES.get(layout.config["cross_attention_dim"]),
        "block_out_channels": list(layout.config["block_out_channels"]),
        "max_num_frames": layout.config["motion_max_seq_length"],
        "positions_stored": layout.has_positions,
        "use": _use(
            f"--model MODEL --motion-adapter ADAPTER --sparsectrl {place} --sparse-image '0: PICTURE'", path
        ),
    }


def _base_model(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    name = single_file_kind(tensors)
    assert name is not None
    return {
        "kind": "image model in one file",
        "base": SINGLE_FILE_KINDS[name].title,
        "use": _use(f"--model {shlex.quote(str(path))} --motion-adapter ADAPTER", path),
    }


def _ip_adapter(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    found = ip_adapter_facts(tensors, str(path))
    reads = {"image": "a picture's vector", "face": "a face identity (FaceID), which nothing here computes"}
    use = _use(f"--model MODEL --ip-adapter {shlex.quote(str(path))} --ip-image IMAGE", path)
    return {
        "kind": "IP-Adapter",
        "reads": reads.get(found.kind, "a picture's patches"),
        "image_width": found.image_width,
        "base": _BASES.get(found.text_width),
        "num_tokens": found.num_tokens,
        "use": None if found.kind == "face" else use,
    }


def _use(flags: str, path: Path) -> str:
    if path.suffix.lower() not in {"", ".safetensors"}:
        return (
            f"video-diffusion convert {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix('')))} "
            "--allow-pickle"
        )
    return f"video-diffusion generate PROMPT {flags}"


def _common(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    return {
        "num_tensors": len(tensors),
        "num_parameters": sum(prod(tensor.shape) for tensor in tensors.values()),
        "dtypes": sorted({tensor.dtype for tensor in tensors.values()}),
    }
