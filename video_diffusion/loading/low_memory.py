"""A model in less memory: networks wait outside the device until they compute, large pictures are tiled."""

from typing import Any

import torch
from torch import nn

from video_diffusion.acceleration.feed_forward import feed_forward, feed_forward_fits
from video_diffusion.acceleration.swaps import Swaps
from video_diffusion.loading.model_parts import ModelParts


def save_memory(parts: ModelParts, device: torch.device) -> None:
    """Place a model so that only the network that computes is on the device, through accelerate's hooks.

    Feed-forward layers, whose middle is the largest tensor of a U-Net, compute a few tokens at a time.
    The temporal layers stay on the device: they compute inside the U-Net. Pictures larger than those that the
    autoencoder was trained on are decoded in tiles, whose seams diffusers blends. On the CPU nothing waits
    anywhere else.

    Args:
        parts: The model; its networks carry accelerate's hooks from here on.
        device: To compute on.
    """
    for network in (parts.unet, parts.motion_adapter):
        for module in network.modules():
            if feed_forward_fits(module):
                Swaps().put_forward(module, feed_forward)
    if hasattr(parts.vae, "enable_tiling"):
        parts.vae.enable_tiling()
    nn.Module.to(parts.motion_adapter, device=device)
    if device.type == "cpu":
        return
    from accelerate import cpu_offload_with_hook  # noqa: PLC0415  only GPUs need it

    hook: Any = None
    for network in (parts.text_encoder, parts.text_encoder_2, parts.unet, parts.vae):
        if network is not None:
            _, hook = cpu_offload_with_hook(network, device, prev_module_hook=hook)
