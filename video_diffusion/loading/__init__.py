"""The only place that reads model folders and hub ids.

Names are imported when they are first used: to find a folder or to look into a weight file takes no torch,
and the command line does both before it loads anything.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_diffusion.loading.control_network import load_controlnet, load_sparse_control
    from video_diffusion.loading.device import choose_device, choose_dtype
    from video_diffusion.loading.errors import DeviceError, ModelLoadError
    from video_diffusion.loading.ip_adapter import LoadedIpAdapter, load_ip_adapter
    from video_diffusion.loading.ip_adapter_source import find_ip_adapter
    from video_diffusion.loading.lora import LoadedLoras, load_loras, load_motion_lora
    from video_diffusion.loading.lora_source import find_lora, parse_lora
    from video_diffusion.loading.low_memory import save_memory
    from video_diffusion.loading.model_folder import load_model
    from video_diffusion.loading.model_folder_writer import save_model
    from video_diffusion.loading.model_parts import ModelParts
    from video_diffusion.loading.model_source import ModelSource, find_model
    from video_diffusion.loading.motion_checkpoint import read_motion_checkpoint, write_original_layout
    from video_diffusion.loading.motion_families import FAMILIES, MotionFamily
    from video_diffusion.loading.motion_file import MotionFile, detect
    from video_diffusion.loading.quantize import check_quantize, quantize_weights

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
    "check_quantize",
    "choose_device",
    "choose_dtype",
    "detect",
    "find_ip_adapter",
    "find_lora",
    "find_model",
    "load_controlnet",
    "load_ip_adapter",
    "load_loras",
    "load_model",
    "load_motion_lora",
    "load_sparse_control",
    "parse_lora",
    "quantize_weights",
    "read_motion_checkpoint",
    "save_memory",
    "save_model",
    "write_original_layout",
]

_HOMES = {
    "FAMILIES": "motion_families",
    "DeviceError": "errors",
    "LoadedIpAdapter": "ip_adapter",
    "LoadedLoras": "lora",
    "ModelLoadError": "errors",
    "ModelParts": "model_parts",
    "ModelSource": "model_source",
    "MotionFamily": "motion_families",
    "MotionFile": "motion_file",
    "check_quantize": "quantize",
    "choose_device": "device",
    "choose_dtype": "device",
    "detect": "motion_file",
    "find_ip_adapter": "ip_adapter_source",
    "find_lora": "lora_source",
    "find_model": "model_source",
    "load_controlnet": "control_network",
    "load_ip_adapter": "ip_adapter",
    "load_loras": "lora",
    "load_model": "model_folder",
    "load_motion_lora": "lora",
    "load_sparse_control": "control_network",
    "parse_lora": "lora_source",
    "quantize_weights": "quantize",
    "read_motion_checkpoint": "motion_checkpoint",
    "save_memory": "low_memory",
    "save_model": "model_folder_writer",
    "write_original_layout": "motion_checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
