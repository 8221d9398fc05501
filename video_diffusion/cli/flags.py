"""The flags of a clip's settings, made from their declarations; layered with `--config` files and `--set`."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from annotated_types import Ge, Le

from video_diffusion.cli.outputs import size_of
from video_diffusion.cli.recipes import complete_recipes, complete_setting, find_config
from video_diffusion.settings import (
    SETTINGS,
    GenerationSettings,
    Layer,
    Setting,
    assign,
    merge,
    read_config,
    set_value,
    validate,
)

Command = TypeVar("Command", bound=Callable[..., Any])
Given = str | bool | Mapping[str, Any] | Sequence[str] | None

# How the frame, step, block or range before a repeated flag's value is written, and examples of it.
_PLACES = {
    "frame": re.compile(r"-?\d{1,4}|[01]?\.\d{0,9}"),
    "step": re.compile(r"-?\d{1,4}|[01]?\.\d{0,9}"),
    "block": re.compile(r"[a-z]{1,9}(\.\d{1,3})?"),
}
_RANGE = re.compile(r"\s*([-.\d]{1,24})\s*:\s*(\S.*)")  # the settings check what is before the colon


def settings_options(command: Command) -> Command:
    """Add the flags of the settings, `--config` and `--set` to a command."""
    command = click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting as YAML; repeatable."
    )(command)
    command = click.option(
        "--config",
        "configs",
        multiple=True,
        metavar="FILE",
        help="YAML settings, or a recipe's name such as animatediff-v3; later files win.",
        shell_complete=complete_recipes("generate"),
    )(command)
    for name, setting in reversed(list(SETTINGS.items())):
        if name == "num_frames":  # beside it stands what sets two fields
            command = click.option("--size", metavar="WxH", help="Pixels, multiples of 8, 16 to 8192.")(
                command
            )
        if setting.flags:
            how = _kind(setting) | {"shell_complete": complete_setting(name)}
            command = click.option(*setting.flags.split(), name, help=_help(name), **how)(command)
    return command


def _kind(setting: Setting) -> dict[str, Any]:
    """How click reads a flag: as a switch, a text, or texts that are collected."""
    if setting.each:
        collect = {"range": _ranges, "item": _items}.get(setting.each, _by_place)
        return {"metavar": f"'{setting.metavar}'", "multiple": True, "callback": collect}
    return {"metavar": setting.metavar} if setting.metavar else {"is_flag": True}


def _help(name: str) -> str:
    """The first sentence of a field's description, its choices or range, and its default."""
    field = GenerationSettings.model_fields[name]
    text = re.split(r"(?<=[^.])(?<!\.[a-z])\.(?: |$)", field.description or "")[0]
    choices = next((get_args(kind) for kind in _kinds(field.annotation) if get_origin(kind) is Literal), ())
    notes = [", ".join(map(str, choices))] if choices else []
    low = next((part.ge for part in field.metadata if isinstance(part, Ge)), None)
    high = next((part.le for part in field.metadata if isinstance(part, Le)), None)
    if low is not None and high is not None:
        notes.append(f"{low} to {'2^63-1' if high == 2**63 - 1 else high}")
    if field.default not in (None, "", (), False) and isinstance(field.default, str | int | float):
        notes.append(f"default: {field.default}")
    return f"{text}.  [{'; '.join(notes)}]" if notes else f"{text}."


def settings_from(
    prompt: str | None, configs: Sequence[str], assignments: Sequence[str], flags: Mapping[str, Given]
) -> GenerationSettings:
    """Lay `--config` files, `--set` texts and flags over each other and check the result."""
    layer = layer_from(configs, assignments, flags)
    if prompt is not None:
        layer = set_value(layer, ["prompt"], prompt, "PROMPT")
    if not {"prompt", "prompt_travel"} & layer.values.keys():
        raise click.UsageError('PROMPT: is missing; for example video-diffusion generate "a red circle"')
    return validate(GenerationSettings, layer)


def layer_from(configs: Sequence[str], assignments: Sequence[str], flags: Mapping[str, Given]) -> Layer:
    """Lay the settings of files, `--set` texts and flags over each other; not yet checked."""
    layer = Layer({})
    for name in configs:
        layer = merge(layer, read_config(find_config(name, "generate")))
    for assignment in assignments:
        layer = assign(layer, assignment)
    if flags.get("size") is not None:
        width, height = size_of(str(flags["size"]))
        layer = set_value(set_value(layer, ["width"], width, "--size"), ["height"], height, "--size")
    for name, setting in SETTINGS.items():
        given = flags.get(name)
        if setting.flags and (given or isinstance(given, str)):
            value = plain_value(given) if isinstance(given, str) and not _is_text(name) else given
            layer = set_value(layer, [name], value, setting.flags.split()[0])
    return layer


def _is_text(name: str) -> bool:
    """Whether a setting holds text, so that 1 given to its flag is the text 1."""
    kinds = _kinds(GenerationSettings.model_fields[name].annotation)
    return str in kinds or name == "fps"  # which reads its own texts, exactly


def _kinds(annotation: Any) -> Sequence[Any]:
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _items(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    return list(texts)


def _by_place(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> Mapping[str, int | float | str]:
    """Repeated "FRAME: VALUE" texts as one map."""
    pairs: dict[str, int | float | str] = {}
    setting = SETTINGS[str(option.name)]
    unit = setting.each
    such_as = (
        "'down: …', 'mid: …' or 'up.0: …'"
        if unit == "block"
        else f"'12: …' for {unit} 12, '-1: …' for the last one or '0.5: …' for the middle"
    )
    for text in texts:
        place, colon, value = (part.strip() for part in text.partition(":"))
        if not colon or not _PLACES[unit].fullmatch(place):
            raise click.UsageError(
                f"{option.opts[0]}: must be {option.metavar}, such as {such_as} (given {text[:80]!r})"
            )
        if place in pairs:
            raise click.UsageError(f"{option.opts[0]}: names {unit} {place} twice; drop one")
        pairs[place] = plain_value(value) if setting.metavar.endswith("X") else value
    return pairs


def _ranges(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> Mapping[str, str] | str | None:
    """Repeated "FRAMES: FILE" texts as one map, or one FILE as it is."""
    ranges: dict[str, str] = {}
    for text in texts:
        found = _RANGE.fullmatch(text)
        if found is None or Path(text).exists():
            if len(texts) > 1:
                raise click.UsageError(
                    f"{option.opts[0]}: is given {len(texts)} times; write which frames each "
                    f"picture is for, such as '0-7: {text[:80]}'"
                )
            return text
        if found[1] in ranges:
            raise click.UsageError(f"{option.opts[0]}: names frames {found[1]} twice; drop one")
        ranges[found[1]] = found[2]
    return ranges or None


def plain_value(text: str) -> int | float | str:
    """A flag's text as the number that it is, else as it stands."""
    if re.fullmatch(r"[+-]?\d{1,40}", text):
        return int(text)
    if re.fullmatch(r"[+-]?\d{1,40}\.\d{1,40}([eE][+-]?\d{1,3})?|[+-]?\d{1,40}[eE][+-]?\d{1,3}", text):
        return float(text)
    return text
