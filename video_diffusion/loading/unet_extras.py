"""Parameters of the image U-Net that a run trained together with its temporal layers (`temporal_and`)."""

from pathlib import Path
from typing import Any

import torch

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.weight_file import open_weights

EXTRAS_FILE = "unet_extras.safetensors"
"""Lies beside a motion adapter's own weights, so that whoever hashes or copies its folder has both."""


def apply_unet_extras(unet: Any, file: Path) -> None:
    """Put them in the place of the image U-Net's own.

    Args:
        unet: A `UNet2DConditionModel`.
        file: Holds some of its parameters by name.

    Raises:
        ModelLoadError: The file is damaged, or of another image model.
    """
    stored = open_weights(file)
    parameters = dict(unet.named_parameters())
    for name, described in stored.tensors.items():
        own = tuple(parameters[name].shape) if name in parameters else None
        if own != described.shape:
            raise ModelLoadError(
                f"{file}: holds {name} of shape {described.shape}, but the image U-Net has {own or 'none'}; "
                "the adapter was trained on another base model"
            )
    with torch.no_grad():
        for name, tensor in stored.load().items():
            parameters[name].copy_(tensor)
