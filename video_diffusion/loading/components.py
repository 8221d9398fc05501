"""Components of a model, from files that anybody may have written: built, compared with them, filled."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.utils import logging as transformers_logging

from video_diffusion.loading.weights import (
    ModelLoadError,
    compare_weights,
    find_weights,
    libraries_said,
    open_weights,
    present_component_name,
    read_json,
)
from video_diffusion.settings import nearest, shown
from video_diffusion.settings.errors import is_ours
from video_diffusion.settings.network_config import blamed_field, config_fault

EXTRAS_FILE, IMAGE_LORA_FILE = "unet_extras.safetensors", "unet_lora.safetensors"
"""Lie beside a motion adapter's own weights, so that whoever hashes or copies its folder has all of it."""

Built = TypeVar("Built")
Network = TypeVar("Network", bound=nn.Module)


def load_diffusers(
    kind: type[ModelMixin],
    folder: Path,
    dtype: torch.dtype,
    *,
    allow_extra: bool = False,
    variant: str | None = None,
    our_fields: Collection[str] = (),
    **changes: object,
) -> ModelMixin:
    """Load a diffusers model, in evaluation mode on the CPU."""
    file = folder / "config.json"
    read = read_json(file)
    config = {name: value for name, value in read.items() if name not in our_fields}
    named = config.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise ModelLoadError(f"{file}: must describe a {kind.__name__}, but names {shown(named)}")
    stored = find_weights(folder, "diffusion_pytorch_model", variant)
    usual = {
        name: field.default
        for name, field in inspect.signature(kind.__init__).parameters.items()
        if name not in {"self", "kwargs"}
    }
    for name in config.keys() - usual.keys():
        if not name.startswith("_"):
            raise ModelLoadError(f"{file}: {kind.__name__} has no field {name!r}{nearest(name, usual)}")
    check_config(config, usual, len(stored.tensors), str(file))
    network = build(lambda fields: kind.from_config({**fields}, **changes), config, usual, str(file))
    names = compare_weights(stored, network, allow_extra)
    return fill(network, stored.load(names), dtype, str(folder))


def load_text_encoder(
    kind: type[PreTrainedModel],
    folder: Path,
    dtype: torch.dtype,
    *,
    allow_extra: bool = False,
    variant: str | None = None,
) -> PreTrainedModel:
    """Load a transformers model; arguments and errors as in `load_diffusers`."""
    file = folder / "config.json"
    config, usual = read_json(file), kind.config_class().to_dict()
    stored = find_weights(folder, "model", variant)
    check_config(config, usual, len(stored.tensors), str(file))
    network = build(lambda fields: kind(kind.config_class.from_dict({**fields})), config, usual, str(file))
    names = compare_weights(stored, network, allow_extra)
    return fill(network, stored.load(names), dtype, str(folder))


def load_tokenizer(kind: type[CLIPTokenizer], folder: Path) -> CLIPTokenizer:
    """Load a tokenizer from its own folder."""
    if not folder.is_dir():
        raise ModelLoadError(f"{folder}: no such folder; this is not a whole model folder")
    with libraries_said(f"{folder}: cannot be built from its configuration"), quiet_libraries():
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        # without its files, transformers 5 silently makes one of two tokens
        is_whole = len(tokenizer) > 2 and len(tokenizer("a").input_ids) > 0
    if not is_whole:
        raise ModelLoadError(f"{folder}: the tokenizer has no vocabulary; download the folder again")
    if not isinstance(tokenizer.model_max_length, int | float) or not tokenizer.model_max_length > 2:
        raise ModelLoadError(
            f"{folder}/tokenizer_config.json: model_max_length must be a number above 2, but is "
            f"{shown(tokenizer.model_max_length)}; 77 is CLIP's"
        )
    return tokenizer


def build(
    make: Callable[[Mapping[str, Any]], Network],
    config: Mapping[str, Any],
    usual: Mapping[str, Any],
    where: str,
    described_by: str = "its configuration",
) -> Network:
    """Build a network without numbers; whatever a wrong value leads to becomes one line that names it.

    Args:
        make: Of a configuration.
        config: Of this one.
        usual: The fields that it may have, with their usual values.
        where: The file that says it.
        described_by: What of the file does.
    """

    def quietly(fields: Mapping[str, Any]) -> Network:
        with torch.device("meta"), quiet_libraries():
            return make(fields)

    with libraries_said(f"{where}: cannot be built from {described_by}"):
        try:
            return quietly(config)
        except Exception as error:
            blamed = None if is_ours(error) else blamed_field(quietly, config, usual)
            if blamed is None:
                raise
            raise ModelLoadError(f"{where}: cannot be built from {described_by}: {blamed}") from None


def check_config(config: Mapping[str, Any], usual: Mapping[str, Any], num_tensors: int, where: str) -> None:
    """Refuse a value that `config_fault` finds."""
    if fault := config_fault(config, usual, num_tensors):
        raise ModelLoadError(f"{where}: {fault}")


def fill(network: Network, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, where: str) -> Network:
    """Give a network that was built without numbers those of its files, which `compare_weights` has seen.

    Args:
        network: See `build`; it is in evaluation mode on the CPU then.
        tensors: By name, older names included.
        dtype: To convert to; None keeps what is stored.
        where: For messages.
    """
    by_name = {present_component_name(name): tensor for name, tensor in tensors.items()}
    state = {}
    for name in network.state_dict():
        stored = by_name[present_component_name(name)]
        state[name] = stored if dtype is None else stored.to(dtype)
        if not bool(torch.isfinite(state[name]).all()):
            raise ModelLoadError(
                f"{where}: {name} holds NaN or infinity after loading as {state[name].dtype}; "
                "the file is damaged, or needs a dtype of wider range"
            )
    network.load_state_dict(state, assign=True)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # what no file stores: the row numbers of text and image encoders
                assert name == "position_ids"
                module.register_buffer(name, torch.arange(buffer.shape[-1])[None], persistent=False)
    return network.eval()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' bars and reports off the terminal: what they would warn of is checked here."""
    loggers = (diffusers_logging, transformers_logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = [logger.is_progress_bar_enabled() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity(logger.CRITICAL)
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level, bar in zip(loggers, levels, bars, strict=True):
            logger.set_verbosity(level)
            if bar:
                logger.enable_progress_bar()


def apply_unet_changes(unet: UNet2DConditionModel, folder: Path) -> frozenset[str]:
    """Put what a run trained of the image U-Net (`temporal_and`, `image_lora`) into it, for good.

    Returns the names of the parameters that are not what they were.
    """
    parameters = dict(unet.named_parameters())
    changed: set[str] = set()
    if (folder / EXTRAS_FILE).is_file():
        stored = open_weights(folder / EXTRAS_FILE)
        for name, described in stored.tensors.items():
            _check_place(folder / EXTRAS_FILE, name, described.shape, parameters)
        with torch.no_grad():
            for name, tensor in stored.load().items():
                parameters[name].copy_(tensor)
        changed |= stored.tensors.keys()
    if (folder / IMAGE_LORA_FILE).is_file():
        tensors = open_weights(folder / IMAGE_LORA_FILE).load()
        for key in tensors:
            if key.endswith(".lora_A.weight"):
                layer = key.removesuffix(".lora_A.weight")
                name = f"{layer.removeprefix('unet.')}.weight"
                down, up = tensors[key], tensors.get(f"{layer}.lora_B.weight", torch.zeros(0, 0))
                _check_place(folder / IMAGE_LORA_FILE, name, (len(up), down.shape[-1]), parameters)
                with torch.no_grad():
                    parameters[name] += (up.float() @ down.float()).to(parameters[name])
                changed.add(name)
    return frozenset(changed)


def _check_place(
    file: Path, name: str, shape: tuple[int, ...], parameters: Mapping[str, nn.Parameter]
) -> None:
    own = tuple(parameters[name].shape) if name in parameters else None
    if own != tuple(shape):
        raise ModelLoadError(
            f"{file}: holds {name} of shape {tuple(shape)}, but the image U-Net has {own or 'none'}; "
            "the adapter was trained on another base model"
        )
