"""Arms: the settings under comparison, from a declared grid or named one by one, each checked."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_diffusion.comparison.summary import Axis
from video_diffusion.config import ConfigError, Layer, assign, nearest, shown, validate
from video_diffusion.generation_settings import GenerationSettings, parse_size
from video_diffusion.jobs.job import parse_seeds

# what arms cannot set: every arm has the same prompts, and seeds have rules of their own
SHARED = {"prompt": "prompts", "seed": "seeds"}
FIELDS = tuple(name for name in GenerationSettings.model_fields if name not in SHARED)
ARM_KEYS = (*FIELDS, "size", "seeds")
MAX_LABEL = 120


@dataclass(frozen=True)
class DeclaredArm:
    """One arm as declared.

    Attributes:
        label: unique.
        values: settings in which it stands apart; fields of `GenerationSettings`.
        place: axis name → value as shown, for arms of a grid.
        seeds: its own seeds, one in the place of each of the comparison's; None takes those.
    """

    label: str
    values: Mapping[str, Any]
    place: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None


def check_shared(layer: Layer) -> dict[str, Any]:
    """The settings that all arms share (section `settings`), checked; `size` becomes width and height.

    Raises:
        ConfigError: an unknown field, or a value outside its rule.
    """
    values = _expanded(layer, ("settings",), layer.values.get("settings") or {})
    _check(layer, values, ("settings",), {})
    return values


def arms_of_grid(layer: Layer, base: Mapping[str, Any]) -> tuple[tuple[DeclaredArm, ...], tuple[Axis, ...]]:
    """The product of the section `grid` in the declared order, the last axis fastest.

    Args:
        layer: the whole declaration.
        base: settings that all arms share.

    Raises:
        ConfigError: an unknown field, a value outside its rule, a value that stands twice, an empty axis.
    """
    axes: list[Axis] = []
    choices: list[list[tuple[str, str, dict[str, Any]]]] = []
    for name, values in layer.values["grid"].items():
        at = ("grid", name)
        _check_key(layer, at, name, (*FIELDS, "size"))
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"{_where(layer, at)}grid.{name} must be a list such as [3, 7.5] (given {shown(values)})"
            )
        known = _checkpoints(layer, at, values) if name == "motion_adapter" else values
        texts = shown_values(known)
        for text in texts:
            if texts.count(text) > 1:
                raise ConfigError(f"{_where(layer, at)}grid.{name} has {text} twice; delete one")
        axis = []
        for text, value in zip(texts, known, strict=True):
            own = _expanded(layer, at, {name: value})
            _check(layer, own, at, base)
            axis.append((name, text, own))
        axes.append(Axis(name, tuple(texts)))
        choices.append(axis)
    arms = []
    for combination in itertools.product(*choices):
        values = {key: value for _, _, own in combination for key, value in own.items()}
        label = ", ".join(f"{name}={text}" for name, text, _ in combination)
        _check(layer, values, ("grid",), base)
        arms.append(DeclaredArm(label, values, {name: text for name, text, _ in combination}))
    return tuple(arms), tuple(axes)


def named_arms(layer: Layer, base: Mapping[str, Any], num_seeds: int) -> tuple[DeclaredArm, ...]:
    """The arms of the section `arms`, in order.

    Args:
        layer: the whole declaration.
        base: settings that all arms share.
        num_seeds: of the comparison; an arm with seeds of its own must have as many.

    Raises:
        ConfigError: an unknown field, a value outside its rule, another number of seeds.
    """
    arms = []
    for label, given in layer.values["arms"].items():
        at = ("arms", label)
        if not label.strip() or len(label) > MAX_LABEL:
            raise ConfigError(
                f"{_where(layer, at)}an arm's name must be 1 to {MAX_LABEL} characters (given {shown(label)})"
            )
        if given is not None and not isinstance(given, dict):
            raise ConfigError(
                f"{_where(layer, at)}arms.{label} must be settings as key: value lines, or {{}} for none "
                f"(given {shown(given)})"
            )
        own = dict(given or {})
        seeds = _own_seeds(layer, at, own.pop("seeds", None), num_seeds)
        values = _expanded(layer, at, own)
        _check(layer, values, at, base)
        arms.append(DeclaredArm(label, values, seeds=seeds))
    return tuple(arms)


def choose_baseline(arms: Sequence[DeclaredArm], wanted: object, origin: str) -> DeclaredArm:
    """The arm that the others are held against.

    Args:
        arms: at least one.
        wanted: a label; for a grid also values of some axes, as a mapping or as a text such as
            "scheduler=ddim, guidance_scale=3" (axes left out take their first value); None is the first arm.
        origin: for messages.

    Raises:
        ConfigError: no arm fits.
    """
    if wanted is None:
        return arms[0]
    found = next((arm for arm in arms if arm.label == wanted), None)
    if found is not None:
        return found
    pairs = wanted if isinstance(wanted, Mapping) else _pairs(wanted)
    if pairs and set(pairs) <= set(arms[0].place):
        fits = [arm for arm in arms if all(arm.place[k] in _spellings(v) for k, v in pairs.items())]
        if fits:
            return fits[0]
    labels = [arm.label for arm in arms]
    prefix = f"{origin}: " if origin else ""
    raise ConfigError(f"{prefix}baseline is no arm (given {shown(wanted)}){nearest(str(wanted), labels)}")


def shown_values(values: Sequence[Any]) -> list[str]:
    """Each value in a few letters; of paths only the last part, where that tells them apart."""
    texts = [_text(value) for value in values]
    short = [Path(text).name if "/" in text else text for text in texts]
    return short if len(set(short)) == len(set(texts)) else texts


def _text(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        return "+".join(_text(item) for item in value) or "none"
    return str(value)


def _pairs(wanted: object) -> dict[str, str]:
    parts = [part.partition("=") for part in re.split(r"[,\s]+", str(wanted).strip()) if part]
    return {name: value for name, equals, value in parts if equals}


def _spellings(value: object) -> set[str]:
    """How a value may stand in a label: "3.0" is 3, too."""
    texts = {_text(value)}
    if isinstance(value, str):
        try:
            texts.add(_text(assign(Layer({}), f"value={value}").values["value"]))
        except ConfigError:
            return texts
    return texts


def _checkpoints(layer: Layer, at: tuple[str, ...], values: Sequence[Any]) -> list[Any]:
    """Values with patterns such as RUN/checkpoints/* replaced by the folders that fit, in order of name."""
    known: list[Any] = []
    for value in values:
        if not (isinstance(value, str) and "*" in value):
            known.append(value)
            continue
        path = Path(value).expanduser()
        root, pattern = (Path("/"), str(path.relative_to("/"))) if path.is_absolute() else (Path(), str(path))
        found = sorted(str(folder) for folder in root.glob(pattern) if folder.is_dir())
        if not found:
            raise ConfigError(
                f"{_where(layer, at)}grid.{at[-1]}: no folder fits {shown(value)}; check the path"
            )
        known += found
    return known


def _own_seeds(layer: Layer, at: tuple[str, ...], given: object, num_seeds: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    where = _where(layer, (*at, "seeds"))
    try:
        seeds = parse_seeds(given)
    except ValueError as error:
        raise ConfigError(f"{where}{'.'.join(at)}.seeds {error} (given {shown(given)})") from None
    if len(seeds) != num_seeds:
        raise ConfigError(
            f"{where}{'.'.join(at)}.seeds must be {num_seeds}, one in the place of each of the comparison's "
            f"(given {len(seeds)})"
        )
    return tuple(seeds)


def _expanded(layer: Layer, at: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with `size` as width and height; unknown names are refused."""
    own = dict(values)
    for name in own:
        if at != ("grid", name):
            _check_key(layer, (*at, name), name, ARM_KEYS if at[0] == "arms" else (*FIELDS, "size"))
    if "size" in own:
        size = own.pop("size")
        try:
            width, height = parse_size(size)
        except ValueError as error:
            where = _where(layer, (*at, "size"))
            raise ConfigError(f"{where}size {error} (given {shown(size)})") from None
        own |= {"width": width, "height": height}
    return own


def _check_key(layer: Layer, at: tuple[str, ...], name: str, known: Sequence[str]) -> None:
    where = _where(layer, at)
    if name in SHARED:
        raise ConfigError(f"{where}{'.'.join(at)} is the same for every arm; list it under {SHARED[name]}")
    if name not in known:
        raise ConfigError(f"{where}no setting '{'.'.join(at)}'{nearest(name, known)}")


def _check(layer: Layer, values: Mapping[str, Any], at: tuple[str, ...], base: Mapping[str, Any]) -> None:
    """Refuses values outside their rules, alone and together with what all arms share."""
    origins: dict[tuple[str | int, ...], str] = {
        (key,): layer.origin((*at, key)) or layer.origin(at) for key in values
    }
    origins |= {(key,): layer.origin(("settings", key)) for key in base if key not in values}
    validate(GenerationSettings, Layer({"prompt": "any", **base, **values}, origins))


def _where(layer: Layer, at: tuple[str, ...]) -> str:
    origin = layer.origin(at)
    return f"{origin}: " if origin else ""
