"""Recipes that travel with the package, found by name from any folder, and shell completion of values."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import click
from click.shell_completion import CompletionItem

Kind = Literal["generate", "train", "compare", "tune"]

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""In an installed package, and in a clone."""


@cache
def recipes(kind: Kind) -> dict[str, Path]:
    """The shipped files of one command by their names."""
    folder = next((place / kind for place in FOLDERS if (place / kind).is_dir()), None)
    files = [] if folder is None else sorted(folder.glob("*.yaml"))
    return {file.stem: file for file in files}


def find_config(name: str, kind: Kind) -> Path:
    """Find a settings file: the path itself, or else the shipped recipe of that name.

    Args:
        name: A path, or a name such as "animatediff-v3", with or without .yaml.
        kind: The command that reads it.

    Raises:
        ConfigError: There is neither.
    """
    path = Path(name)
    if path.exists() or path.suffix not in {"", ".yaml", ".yml"} or len(path.parts) != 1:
        return path  # what is not there is told by whoever reads it
    from video_diffusion.settings import ConfigError, nearest

    known = recipes(kind)
    stem = path.stem if path.suffix in {".yaml", ".yml"} else name
    if stem in known:
        return known[stem]
    raise ConfigError(f"{name}: no such file, and no recipe of that name{nearest(stem, known)}")


# Shell completion: names of recipes, choices of settings.


def complete_recipes(kind: Kind) -> Any:
    """What a shell is offered for a settings file: recipes, then files."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        names = [name for name in recipes(kind) if name.startswith(typed)]
        return [*map(CompletionItem, names), CompletionItem(typed, type="file")]

    return complete


def complete_setting(name: str) -> Any:
    """What a shell is offered for the flag of a setting; None where nothing is known."""
    from video_diffusion.settings import SETTINGS, GenerationSettings

    field = GenerationSettings.model_fields[name]
    kinds = [field.annotation, *get_args(field.annotation)]
    choices = [choice for kind in kinds for choice in get_args(kind) if isinstance(choice, str)]
    fixed = {
        "model": ["embedded"],
        "motion_adapter": ["teacher", "none"],
        "device": ["auto", "cpu", "cuda", "mps"],
    }
    offered: Sequence[str] = choices or fixed.get(name, [])
    metavar = SETTINGS[name].metavar
    takes_file = any(word in metavar for word in ("FILE", "PATH", "MODEL", "DIR"))
    if not offered and not takes_file:
        return None

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        found = [CompletionItem(choice) for choice in offered if choice.startswith(typed)]
        kind = "dir" if metavar == "DIR" else "file"
        return [*found, *([CompletionItem(typed, type=kind)] if takes_file else [])]

    return complete
