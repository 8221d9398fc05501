"""Weights for the learned metrics, from local files only: never downloaded, never random or incomplete."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import logging

from video_diffusion.settings import read_json_file, shown
from video_diffusion.settings.errors import as_one_line, one_line
from video_diffusion.settings.network_config import blamed_field, config_fault
from video_diffusion.video import weights_sha256


class MetricWeightsError(ValueError):
    """Weights that a metric cannot use; the message says what to download and where to put it."""


libraries_said = partial(as_one_line, MetricWeightsError)


def optional_package(name: str, advice: str) -> Any:
    """Import a package that this project does not depend on.

    Raises:
        MetricWeightsError: it is not installed, or does not fit the installed torch.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        package = name.split(".", maxsplit=1)[0]
        raise MetricWeightsError(f"{package} cannot be imported ({one_line(error)}); {advice}") from None


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
    file, usual = folder / "config.json", model_class.config_class().to_dict()
    if not file.is_file():
        raise MetricWeightsError(f"{folder}: holds no config.json; {advice}")
    sha256 = weights_sha256(folder)
    if sha256 is None:
        raise MetricWeightsError(f"{folder}: holds no .safetensors weights; {advice}")
    not_whole = f"{folder}: is not a whole {model_class.__name__}"

    def build(fields: Mapping[str, object]) -> object:
        with torch.device("meta"), _quiet():
            return model_class(model_class.config_class.from_dict({**fields}), **options)

    with libraries_said(not_whole, advice):
        config = read_json_file(file, strict=False)
        if not isinstance(config, dict):
            raise MetricWeightsError(f"{file}: must hold a mapping, but holds {shown(config)}; {advice}")
        if config.get("model_type") != usual["model_type"]:
            told = f"model_type is {shown(config.get('model_type'))}"
            raise MetricWeightsError(f"{not_whole}: {told} in config.json; {advice}")
        if fault := config_fault(config, usual, _num_tensors(folder)):
            raise MetricWeightsError(f"{file}: {fault}; {advice}")
        try:
            with _quiet():
                model, info = model_class.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
                )
        except Exception:
            if blamed := blamed_field(build, config, usual):
                raise MetricWeightsError(f"{file}: {blamed}; {advice}") from None
            raise
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
    with libraries_said(f"{path}: is no file of weights", advice):
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state, sha256


def fill(model: nn.Module, state: dict[str, Tensor], path: Path, kind: str, advice: str) -> None:
    """Put a state dict into a model, all of it.

    Raises:
        MetricWeightsError: names or sizes differ.
    """
    with libraries_said(f"{path}: is not {kind}", advice):
        model.load_state_dict(state)


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


def _num_tensors(folder: Path) -> int:
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            count += len(opened.keys())
    return count


def check_trained(model: nn.Module, where: Path, advice: str) -> None:
    """Refuse weights as they are before any training: every normalisation still multiplies by 1 and adds 0.

    Raises:
        MetricWeightsError: the weights were never trained.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.LayerNorm, nn.BatchNorm2d))]
    if layers and all(bool((layer.weight == 1).all()) and not layer.bias.any() for layer in layers):
        raise MetricWeightsError(f"{where}: holds random weights that were never trained; {advice}")
