"""Weights for the learned metrics, from local files only: never downloaded, never random or incomplete."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging

from video_diffusion.video import weights_sha256


class MetricWeightsError(ValueError):
    """Weights that a metric cannot use; the message says what to download and where to put it."""


def optional_package(name: str, advice: str) -> Any:
    """Import a package that this project does not depend on.

    Raises:
        MetricWeightsError: it is not installed, or does not fit the installed torch.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        package = name.split(".", maxsplit=1)[0]
        raise MetricWeightsError(f"{package} cannot be imported ({_first_line(error)}); {advice}") from None


def load_folder(folder: Path, model_class: Any, advice: str, **options: Any) -> tuple[Any, str]:
    """Load a transformers model from a folder with config.json and safetensors.

    Args:
        folder: local; nothing is looked up on a network.
        model_class: such as `CLIPModel`.
        advice: what to download, ending the message of every error.
        options: for the class.

    Returns:
        The model in evaluation mode, and the SHA-256 of its weights.

    Raises:
        MetricWeightsError: no such folder, another kind of model, weights missing, incomplete or never
            trained.
    """
    if not (folder / "config.json").is_file():
        raise MetricWeightsError(f"{folder}: holds no config.json; {advice}")
    sha256 = weights_sha256(folder)
    if sha256 is None:
        raise MetricWeightsError(f"{folder}: holds no .safetensors weights; {advice}")
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        kind = f"is not a whole {model_class.__name__} ({_first_line(error)})"
        raise MetricWeightsError(f"{folder}: {kind}; {advice}") from None
    absent = sorted([*info["missing_keys"], *map(str, info["mismatched_keys"])])
    if absent:
        count = f"{len(absent)} of its weights are missing or of another size, such as {absent[0]}"
        raise MetricWeightsError(f"{folder}: is not a whole {model_class.__name__}: {count}; {advice}")
    check_trained(model, folder, advice)
    return model.eval(), sha256


def load_published(path: Path, advice: str) -> tuple[dict[str, Tensor], str]:
    """Load a state dict from a `.pth` file as torchvision publishes them, without running any pickled code.

    Such a name ends in the first eight digits of the file's SHA-256, so that neither a broken download nor
    random weights can pass for the real ones.

    Returns:
        The tensors by name, and the SHA-256 of the file.

    Raises:
        MetricWeightsError: no such file, a name that is not the file's own, or no state dict.
    """
    if not path.is_file():
        raise MetricWeightsError(f"{path}: no such file; {advice}")
    sha256 = weights_sha256(path) or ""
    named = re.fullmatch(r".*-([0-9a-f]{8})\.pth", path.name)
    if named is None or not sha256.startswith(named[1]):
        raise MetricWeightsError(
            f"{path}: is not as published: its name must end in the first digits of its SHA-256, "
            f"{sha256[:8]} (a download cut short, or other weights); {advice}"
        )
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise MetricWeightsError(f"{path}: is no file of weights ({_first_line(error)}); {advice}") from None
    return state, sha256


def fill(model: nn.Module, state: dict[str, Tensor], path: Path, kind: str, advice: str) -> None:
    """Put a state dict into a model, all of it.

    Raises:
        MetricWeightsError: names or sizes differ.
    """
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise MetricWeightsError(f"{path}: is not {kind} ({_first_line(error)}); {advice}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no load reports of the library: what is wrong is said by our one line."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def check_trained(model: nn.Module, where: Path, advice: str) -> None:
    """Refuse weights as they are before any training: every normalisation still multiplies by 1 and adds 0.

    Raises:
        MetricWeightsError: the weights were never trained.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.LayerNorm, nn.BatchNorm2d))]
    if layers and all(bool((layer.weight == 1).all()) and not layer.bias.any() for layer in layers):
        raise MetricWeightsError(f"{where}: holds random weights that were never trained; {advice}")
