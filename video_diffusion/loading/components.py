"""One component of a model folder at a time: its configuration and its weights, checked, then loaded."""

import difflib
import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from video_diffusion.loading.weights import (
    ModelLoadError,
    StoredWeights,
    compare_weights,
    find_weights,
    open_weights,
    read_json,
)


def load_diffusers(
    kind: Any,
    folder: Path,
    dtype: torch.dtype,
    *,
    allow_extra: bool = False,
    variant: str | None = None,
    our_fields: Collection[str] = (),
    **changes: Any,
) -> Any:
    """Load a diffusers model, in evaluation mode on the CPU."""
    read = read_json(folder / "config.json")
    config = {name: value for name, value in read.items() if name not in our_fields}
    _check_config(kind, config, folder)
    stored = find_weights(folder, "diffusion_pytorch_model", variant)
    with torch.device("meta"):
        outline = _built(lambda: kind.from_config(config, **changes), folder)
    compare_weights(stored, outline, allow_extra)
    return _loaded(kind, stored, {"torch_dtype": dtype, "variant": stored.variant, **changes})


def load_text_encoder(
    kind: Any, folder: Path, dtype: torch.dtype, *, allow_extra: bool = False, variant: str | None = None
) -> Any:
    """Load a transformers model; arguments and errors as in `load_diffusers`."""
    config = read_json(folder / "config.json")
    stored = find_weights(folder, "model", variant)
    with torch.device("meta"):
        outline = _built(lambda: kind(kind.config_class.from_dict(config)), folder)
    compare_weights(stored, outline, allow_extra)
    return _loaded(kind, stored, {"dtype": dtype, "variant": stored.variant})


def load_tokenizer(kind: Any, folder: Path) -> Any:
    """Load a tokenizer from its own folder."""
    if not folder.is_dir():
        raise ModelLoadError(f"{folder}: no such folder; this is not a whole model folder")
    with quiet_libraries():
        tokenizer = _built(lambda: kind.from_pretrained(folder, local_files_only=True), folder)
    if len(tokenizer) < 3:  # without its files, transformers 5 silently makes one of two tokens
        raise ModelLoadError(f"{folder}: the tokenizer has no vocabulary; download the folder again")
    return tokenizer


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


def _check_config(kind: Any, config: dict[str, Any], folder: Path) -> None:
    named = config.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise ModelLoadError(f"{folder}/config.json: must describe a {kind.__name__}, but names {named!r}")
    known = set(inspect.signature(kind.__init__).parameters)
    for field in config:
        if not field.startswith("_") and field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did someone mean {near[0]!r}?" if near else "it may come from a newer version"
            raise ModelLoadError(f"{folder}/config.json: {kind.__name__} has no field {field!r}; {hint}")


def _built(build: Any, folder: Path) -> Any:
    """Run what makes a component from files that anybody may have written."""
    try:
        return build()
    except ModelLoadError:
        raise
    except Exception as error:  # whatever a wrong value leads to, deep inside the libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(f"{folder}: cannot be built from its configuration ({reason})") from error


def _loaded(kind: Any, stored: StoredWeights, options: dict[str, Any]) -> Any:
    with quiet_libraries():
        model = _built(
            lambda: kind.from_pretrained(
                stored.folder, use_safetensors=True, local_files_only=True, **options
            ),
            stored.folder,
        )
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelLoadError(
                f"{stored.folder}: {name} holds NaN or infinity after loading as {tensor.dtype}; "
                "the file is damaged, or needs a dtype of wider range"
            )
    return model.eval()


# Parameters of the image U-Net that a run trained together with its temporal layers (`temporal_and`).


EXTRAS_FILE = "unet_extras.safetensors"
"""Lies beside a motion adapter's own weights, so that whoever hashes or copies its folder has both."""


def apply_unet_extras(unet: Any, file: Path) -> None:
    """Put them in the place of the image U-Net's own."""
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
