"""The only place that reads model folders and hub ids.

Names are imported when they are first used: to find a folder or to look into a weight file takes no torch,
and the command line does both before it loads anything.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_diffusion.loading.device import choose_device, choose_dtype
    from video_diffusion.loading.errors import DeviceError, ModelLoadError
    from video_diffusion.loading.model_folder import ModelParts, load_model
    from video_diffusion.loading.model_folder_writer import save_model
    from video_diffusion.loading.model_source import ModelSource, find_model

__all__ = [
    "DeviceError",
    "ModelLoadError",
    "ModelParts",
    "ModelSource",
    "choose_device",
    "choose_dtype",
    "find_model",
    "load_model",
    "save_model",
]

_HOMES = {
    "DeviceError": "errors",
    "ModelLoadError": "errors",
    "ModelParts": "model_folder",
    "ModelSource": "model_source",
    "choose_device": "device",
    "choose_dtype": "device",
    "find_model": "model_source",
    "load_model": "model_folder",
    "save_model": "model_folder_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
