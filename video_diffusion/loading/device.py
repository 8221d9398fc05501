"""The device and precision of a model, and what it costs to hold: offloading, tiling, quantization."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from video_diffusion.acceleration.accelerate import Swaps
from video_diffusion.acceleration.kernels import feed_forward, feed_forward_fits
from video_diffusion.loading.model import ModelParts
from video_diffusion.loading.weights import DeviceError
from video_diffusion.settings import DtypeName, check_quantize

if TYPE_CHECKING:
    from video_diffusion.loading.model import ModelParts


def choose_device(name: str = "auto") -> torch.device:
    """Turn a device's name into one that this machine has.

    Args:
        name: "auto" takes the first of CUDA, Intel XPU, Apple MPS and the CPU that there is; else "cpu",
            "cuda", "cuda:1" and the like.

    Raises:
        DeviceError: There is no such device; the message lists those there are.
    """
    available = _available()
    if name == "auto":
        return torch.device(available[0])
    if name not in {*available, *(kind.split(":")[0] for kind in available)}:
        raise DeviceError(
            f"device {name} is not on this machine, which has {', '.join(available)}; choose one of them"
        )
    return torch.device(name)


def choose_dtype(name: str | torch.dtype | None) -> torch.dtype:
    """Turn the name of a precision into it; None is float32.

    Raises:
        ValueError: No such precision, or not one for networks.
    """
    plain = "float32" if name is None else str(name).removeprefix("torch.")
    if plain not in get_args(DtypeName):
        known = ", ".join(get_args(DtypeName))
        raise ValueError(f"dtype must be one of {known}, not {plain}; float32 is the safe one")
    return getattr(torch, plain)


def _available() -> list[str]:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    xpu = [f"xpu:{index}" for index in range(torch.xpu.device_count())]
    return [*cuda, *xpu, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


# A model in less memory: networks wait outside the device until they compute, large images are tiled.


def save_memory(parts: ModelParts, device: torch.device) -> None:
    """Place a model so that only the network that computes is on the device, through accelerate's hooks.

    Feed-forward layers, whose middle is the largest tensor of a U-Net, compute a few tokens at a time.
    The temporal layers stay on the device: they compute inside the U-Net. Images larger than those that the
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
    if hasattr(parts.vae, "use_tiling"):
        parts.vae.enable_tiling()
    nn.Module.to(parts.motion_adapter, device=device)
    if device.type == "cpu":
        return
    from accelerate import cpu_offload_with_hook  # noqa: PLC0415  only GPUs need it

    hook: Any = None
    for network in (parts.text_encoder, parts.text_encoder_2, parts.unet, parts.vae):
        if network is not None:
            _, hook = cpu_offload_with_hook(network, device, prev_module_hook=hook)


# Weights in fewer bits, through torchao: they take less memory, and clips differ a little.


TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers")  # about kernels for other machines, on import


def quantize_weights(parts: "ModelParts", name: str) -> "ModelParts":
    """Store the linear maps of the U-Net and of the temporal layers as 8-bit integers, one scale a row.

    They compute in the precision that they had. Convolutions, norms, text encoders and the autoencoder stay
    as they are. A quantised model takes no LoRA and cannot be saved.

    Args:
        parts: The model; its networks change.
        name: "int8".

    Raises:
        ValueError: See `check_quantize`.
    """
    check_quantize(name)
    with _quiet():
        # an extra of the package
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # noqa: PLC0415

    for network in (parts.unet, parts.motion_adapter):
        quantize_(network, Int8WeightOnlyConfig())
    return replace(parts, quantize=name)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
