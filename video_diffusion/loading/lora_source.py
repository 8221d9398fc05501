"""From the name of a LoRA to its file; takes no torch."""

from pathlib import Path

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.model_source import find_model

LORA_FILES = ("pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors")
_RUN_FOLDERS = ("motion_lora", "domain_lora")


def find_lora(name: str) -> Path:
    """Find a LoRA's file.

    Args:
        name: A file; a folder with one, such as a training run or its checkpoint; or a hub id.

    Raises:
        ModelLoadError: There is none, or the folder holds several.
    """
    place = find_model(name).folder
    if place.is_file():
        return place
    for folder in (place, *(place / inside for inside in _RUN_FOLDERS)):
        named = [folder / file for file in LORA_FILES if (folder / file).is_file()]
        files = named or sorted(folder.glob("*.safetensors"))
        if len(files) == 1:
            return files[0]
        if files:
            raise ModelLoadError(f"{name}: holds {len(files)} weights files; give one, such as {files[0]}")
    raise ModelLoadError(f"{name}: no safetensors file of a LoRA there; give the file itself")


def parse_lora(text: str) -> tuple[str, float]:
    """Take "PATH" or "PATH:WEIGHT" apart; a weight that is not given is 1.

    Raises:
        ValueError: The weight is not a number from -10 to 10.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        return text, 1.0  # the colon belongs to the path
    if not -10 <= weight <= 10 or not path:
        raise ValueError(f"loras must be PATH or PATH:WEIGHT with a weight from -10 to 10, not {text!r}")
    return path, weight
