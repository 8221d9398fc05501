"""The only place that reads model folders and hub ids."""

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
