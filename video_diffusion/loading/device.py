"""Where to compute, and in which precision."""

from typing import get_args

import torch

from video_diffusion.generation_settings import DtypeName
from video_diffusion.loading.errors import DeviceError


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
