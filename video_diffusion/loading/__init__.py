"""The only place that reads model folders and hub ids.

Names are imported when they are first used: to find a folder or to look into a weight file takes no torch,
and the command line does both before it loads anything.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_diffusion.loading.adapters import LoadedIpAdapter, load_ip_adapter
    from video_diffusion.loading.control import load_controlnet, load_sparse_control
    from video_diffusion.loading.device import choose_device, choose_dtype, quantize_weights, save_memory
    from video_diffusion.loading.embeddings import load_embedding
    from video_diffusion.loading.lora import LoadedLoras, load_loras
    from video_diffusion.loading.model import (
        ModelParts,
        load_model,
        needs_float32,
        save_model,
        swap_motion_adapter,
    )
    from video_diffusion.loading.motion import FAMILIES, MotionFamily, MotionFile, detect
    from video_diffusion.loading.motion_weights import read_motion_checkpoint, write_original_layout
    from video_diffusion.loading.sources import (
        ModelSource,
        find_ip_adapter,
        find_lora,
        find_model,
        parse_lora,
    )
    from video_diffusion.loading.weights import DeviceError, ModelLoadError, OnBytes

__all__ = [
    "FAMILIES",
    "DeviceError",
    "LoadedIpAdapter",
    "LoadedLoras",
    "ModelLoadError",
    "ModelParts",
    "ModelSource",
    "MotionFamily",
    "MotionFile",
    "OnBytes",
    "choose_device",
    "choose_dtype",
    "detect",
    "find_ip_adapter",
    "find_lora",
    "find_model",
    "load_controlnet",
    "load_embedding",
    "load_ip_adapter",
    "load_loras",
    "load_model",
    "load_sparse_control",
    "needs_float32",
    "parse_lora",
    "quantize_weights",
    "read_motion_checkpoint",
    "save_memory",
    "save_model",
    "swap_motion_adapter",
    "write_original_layout",
]

_HOMES = {
    "FAMILIES": "motion",
    "DeviceError": "weights",
    "LoadedIpAdapter": "adapters",
    "LoadedLoras": "lora",
    "ModelLoadError": "weights",
    "ModelParts": "model",
    "ModelSource": "sources",
    "MotionFamily": "motion",
    "MotionFile": "motion",
    "OnBytes": "weights",
    "choose_device": "device",
    "choose_dtype": "device",
    "detect": "motion",
    "find_ip_adapter": "sources",
    "find_lora": "sources",
    "find_model": "sources",
    "load_controlnet": "control",
    "load_embedding": "embeddings",
    "load_ip_adapter": "adapters",
    "load_loras": "lora",
    "load_model": "model",
    "load_sparse_control": "control",
    "needs_float32": "model",
    "parse_lora": "sources",
    "quantize_weights": "device",
    "read_motion_checkpoint": "motion_weights",
    "save_memory": "device",
    "save_model": "model",
    "swap_motion_adapter": "model",
    "write_original_layout": "motion_weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
