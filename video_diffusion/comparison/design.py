"""A declared comparison: YAML and flags in; a checked design out, and as YAML that runs again."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from video_diffusion.comparison.summary import Axis
from video_diffusion.jobs.job import parse_seeds
from video_diffusion.jobs.job_file import read_rows
from video_diffusion.settings import (
    ConfigError,
    GenerationSettings,
    Layer,
    assign,
    check_prompt,
    dump,
    nearest,
    parse_size,
    shown,
    validate,
)
from video_diffusion.web import counted

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
    """The settings that all arms share (section `settings`), checked; `size` becomes width and height."""
    values = _expanded(layer, ("settings",), layer.values.get("settings") or {})
    _check(layer, values, ("settings",), {})
    return values


def arms_of_grid(layer: Layer, base: Mapping[str, Any]) -> tuple[tuple[DeclaredArm, ...], tuple[Axis, ...]]:
    """The product of the section `grid` in the declared order, the last axis fastest."""
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
            own = check_values(layer, at, {name: value}, base)
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


def named_arms(
    layer: Layer, base: Mapping[str, Any], num_seeds: int, section: str = "arms"
) -> tuple[DeclaredArm, ...]:
    """The arms of the section `arms`, or of another that names settings in the same way, in order."""
    arms = []
    for label, given in layer.values[section].items():
        at = (section, label)
        if not label.strip() or len(label) > MAX_LABEL:
            raise ConfigError(
                f"{_where(layer, at)}a name in {section} must be 1 to {MAX_LABEL} characters "
                f"(given {shown(label)})"
            )
        if given is not None and not isinstance(given, dict):
            raise ConfigError(
                f"{_where(layer, at)}{section}.{label} must be settings as key: value lines, or {{}} for "
                f"none (given {shown(given)})"
            )
        own = dict(given or {})
        seeds = _own_seeds(layer, at, own.pop("seeds", None), num_seeds)
        values = check_values(layer, at, own, base)
        arms.append(DeclaredArm(label, values, seeds=seeds))
    return tuple(arms)


def choose_baseline(arms: Sequence[DeclaredArm], wanted: object, origin: str) -> DeclaredArm:
    """The arm that the others are held against."""
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


def check_values(
    layer: Layer, at: tuple[str, ...], values: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings declared at a place, checked alone and with what all arms share; `size` becomes two."""
    own = _expanded(layer, at, values)
    _check(layer, own, at, base)
    return own


def _expanded(layer: Layer, at: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with `size` as width and height; unknown names are refused."""
    own = dict(values)
    for name in own:
        if at not in {("grid", name), ("search", name)}:
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


# A declared comparison: YAML and flags in; a checked design out, and as YAML that runs again.


# How much a guard may fall before a setting no longer wins: motion and sharpness as shares of the baseline's
# mean, the rest in units of the metric; morph by what a close look can see. Flicker's is the difference that
# the power sentence asks for.
DEFAULT_MARGINS: Mapping[str, float] = {
    "flicker": 0.1, "motion": 0.2, "morph": 0.1, "sharpness": 0.1, "prompt_alignment": 0.1, "cuts": 0.25,
}  # fmt: skip
OTHER_SEEDS_FROM = 1_000_000
ALL_PARTS = ("title", "settings", "arms", "grid", "baseline", "prompts", "seeds", "margins", "alpha")


class CompareConfig(BaseModel):
    """The YAML form of a comparison.

    Attributes:
        title: for the head of the report.
        settings: generation settings that all arms share.
        arms: label → settings in which that arm stands apart, `seeds` among them.
        grid: setting → values; every combination is an arm. Give arms or grid.
        baseline: label of an arm, or values of the grid's axes; None is the first arm.
        prompts: a list, or a job file of prompts (.txt, .csv, .jsonl, …), relative to the YAML file.
        seeds: a number, a list, or a text such as "0-7".
        margins: by how much guards may fall; see `DEFAULT_MARGINS`.
        alpha: level of the tests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: Annotated[str, Field(max_length=300)] = ""
    settings: dict[str, Any] | None = None
    arms: dict[str, Any] | None = None
    grid: dict[str, Any] | None = None
    baseline: Any = None
    prompts: list[Any] | str
    seeds: Any = 0
    margins: dict[str, Annotated[float, Field(ge=0)]] = {}
    alpha: Annotated[float, Field(ge=0.0001, le=0.5)] = 0.05


@dataclass(frozen=True)
class Design:
    """A checked comparison.

    Attributes:
        title: for people.
        base: settings that all arms share.
        arms: the baseline first, then the others in the declared order.
        axes: of a grid, else empty.
        prompts, seeds: each once, in the declared order.
        margins: as declared, over the defaults.
        alpha: level of the tests.
        notes: what was left out or assumed, for the report.
        resolved: the same comparison as a config that runs again.
    """

    title: str
    base: Mapping[str, Any]
    arms: tuple[DeclaredArm, ...]
    axes: tuple[Axis, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    margins: Mapping[str, float]
    alpha: float
    notes: tuple[str, ...]
    resolved: CompareConfig

    @property
    def num_clips(self) -> int:
        """Places of the comparison; clips that two arms share are made once."""
        return len(self.arms) * len(self.prompts) * len(self.seeds)

    def to_yaml(self) -> str:
        """What `config.yaml` of the output folder holds."""
        return "schema_version: 1\n" + dump(self.resolved)

    def against_itself(self) -> "Design":
        """The A/A run: the baseline against itself with other seeds. Nothing should be found."""
        first = self.arms[0]
        others = tuple(OTHER_SEEDS_FROM + seed for seed in self.seeds)
        again = replace(first, label="the same with other seeds", place={}, seeds=others)
        first = replace(first, place={})
        arms = {arm.label: _whole(arm, self.base) for arm in (first, again)}
        title = f"{self.title}: the baseline against itself" if self.title else "The baseline against itself"
        changes = {"title": title[:300], "settings": None, "grid": None, "arms": arms}
        changes |= {"baseline": first.label}
        resolved = self.resolved.model_copy(update=changes)
        return replace(self, title=title, arms=(first, again), axes=(), resolved=resolved)


def read_assignment(layer: Layer, assignment: str) -> Layer:
    """Apply `--set key=value`: a part of the declaration (alpha=0.01), else a setting of all arms."""
    name = assignment.partition("=")[0].strip()
    first = name.split(".")[0]
    if first in FIELDS or first == "size":
        return assign(layer, f"settings.{assignment.strip()}", "--set")
    if first and "=" in assignment and first not in ALL_PARTS:
        raise ConfigError(f"--set: no setting '{name}'{nearest(first, (*ALL_PARTS, *FIELDS))}")
    return assign(layer, assignment, "--set")


def design_from(layer: Layer) -> Design:
    """Checks a declaration whole: fields, values, prompts, seeds, baseline and margins."""
    config = validate(CompareConfig, layer)
    if bool(config.arms) == bool(config.grid):
        raise ConfigError(
            "grid or arms must say what is compared, and not both; for example --grid scheduler=[ddim,euler]"
        )
    seeds = read_seeds(layer, config.seeds)
    prompts, repeated = read_prompts(layer, config.prompts)
    base = check_shared(layer)
    axes: tuple[Axis, ...] = ()
    if config.grid:
        arms, axes = arms_of_grid(layer, base)
    else:
        arms = named_arms(layer, base, len(seeds))
    if len(arms) < 2:
        raise ConfigError(f"a comparison needs 2 or more arms (given {len(arms)}: {arms[0].label}); add one")
    first = choose_baseline(arms, config.baseline, layer.origin(("baseline",)))
    margins = {**DEFAULT_MARGINS, **config.margins}
    for name in config.margins:
        if name not in DEFAULT_MARGINS:
            where = layer.origin(("margins", name))
            raise ConfigError(f"{where}: no margin '{name}'{nearest(name, DEFAULT_MARGINS)}")
    notes = (f"{counted(repeated, 'prompt')} given a second time; each counts once",) if repeated else ()
    resolved = config.model_copy(
        update={
            "settings": base if config.grid else None,
            "grid": {axis: _raw(arms, axis) for axis in config.grid} if config.grid else None,
            "arms": None if config.grid else {arm.label: _whole(arm, base) for arm in arms},
            "baseline": first.label,
            "prompts": list(prompts),
            "seeds": list(seeds),
            "margins": margins,
        }
    )
    others = tuple(arm for arm in arms if arm is not first)
    return Design(
        config.title, base, (first, *others), axes, prompts, seeds, margins, config.alpha, notes, resolved
    )


def read_rules(assignments: Sequence[str]) -> tuple[float, Mapping[str, float]]:
    """Level of the tests and margins from `--set` texts alone, for clips that are compared as they are."""
    layer = Layer({"arms": {"a": {}, "b": {}}, "prompts": ["any"]})
    for text in assignments:
        if text.partition("=")[0].strip().split(".")[0] not in {"alpha", "margins"}:
            raise ConfigError(f"--set: with --clips, alpha and margins can be set (given {shown(text)})")
        layer = assign(layer, text, "--set")
    design = design_from(layer)
    return design.alpha, design.margins


def _whole(arm: DeclaredArm, base: Mapping[str, Any]) -> dict[str, Any]:
    """An arm with all its settings, since a config leaves out what is None."""
    own = {**base, **arm.values}
    return own if arm.seeds is None else {**own, "seeds": list(arm.seeds)}


def _raw(arms: Sequence[DeclaredArm], axis: str) -> list[Any]:
    """The values of an axis as a config holds them, patterns of checkpoints already followed."""
    if axis == "size":
        return list(dict.fromkeys(arm.place["size"] for arm in arms))
    known: dict[str, Any] = {}
    for arm in arms:
        known.setdefault(arm.place[axis], arm.values[axis])
    return list(known.values())


def read_seeds(layer: Layer, given: object, at: tuple[str, ...] = ("seeds",)) -> tuple[int, ...]:
    """The seeds declared at a place, each once."""
    where, name = layer.origin(at), ".".join(at)
    try:
        seeds = parse_seeds(given)
    except ValueError as error:
        raise ConfigError(f"{where}: {name} {error} (given {shown(given)})".removeprefix(": ")) from None
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None) if len(seeds) < 1000 else None
    if twice is not None:
        raise ConfigError(f"{where}: {name} has {twice} twice; delete one".removeprefix(": "))
    return tuple(dict.fromkeys(seeds))


def read_prompts(
    layer: Layer, given: Sequence[Any] | str, at: tuple[str, ...] = ("prompts",)
) -> tuple[tuple[str, ...], int]:
    """The prompts declared at a place, each once, and how many were given again."""
    where, name = layer.origin(at), ".".join(at)
    found: list[tuple[str, object]]
    if isinstance(given, str):
        path = _beside(where, given)
        found = []
        for row in read_rows(path):
            for name in row.values:
                if name != "prompt":
                    raise ConfigError(
                        f"{row.where}: {name} is not a prompt; put settings into the comparison"
                    )
            found.append((row.where, row.values.get("prompt")))
    else:
        found = [(f"{where} {name}.{index}", prompt) for index, prompt in enumerate(given)]
    if not found:
        raise ConfigError(f"{where}: {name} must hold one or more texts; add some".removeprefix(": "))
    for place, prompt in found:
        if not isinstance(prompt, str):
            raise ConfigError(f"{place}: a prompt must be text (given {shown(prompt)})")
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise ConfigError(f"{place}: prompt {error} (given {shown(prompt)})") from None
    texts = tuple(dict.fromkeys(str(prompt) for _, prompt in found))
    return texts, len(found) - len(texts)


def _beside(origin: str, name: str) -> Path:
    """A path from a YAML file, relative to that file; from a flag, relative to where the program runs."""
    file = origin.rpartition(":")[0]
    return Path(file).parent / name if Path(file).suffix in {".yaml", ".yml"} else Path(name)
