"""Weights in fewer bits, through torchao: they take less memory, and clips differ a little."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, get_args

from video_diffusion.generation_settings import QuantizeName

if TYPE_CHECKING:
    from video_diffusion.loading.model_parts import ModelParts

TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers")  # about kernels for other machines, on import


def check_quantize(name: str | None) -> None:
    """Refuse what cannot be done here; None is always right. Imports neither torch nor torchao.

    Raises:
        ValueError: No such kind, or torchao is not installed.
    """
    if name is None:
        return
    if name not in get_args(QuantizeName):
        raise ValueError(f"quantize must be one of {', '.join(get_args(QuantizeName))}, not {name!r}")
    if find_spec("torchao") is None:
        raise ValueError(
            f"quantize {name} needs torchao, which is not installed; "
            "pip install 'video-diffusion[quantize]', or leave quantize out"
        )


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
