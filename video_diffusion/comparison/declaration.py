"""A declared comparison: YAML and flags in; a checked design out, and as YAML that runs again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from video_diffusion.comparison.grid import (
    FIELDS,
    DeclaredArm,
    arms_of_grid,
    check_shared,
    choose_baseline,
    named_arms,
)
from video_diffusion.comparison.summary import Axis
from video_diffusion.config import ConfigError, Layer, assign, dump, nearest, shown, validate
from video_diffusion.generation_settings import check_prompt
from video_diffusion.jobs.job import parse_seeds
from video_diffusion.jobs.job_file import read_rows
from video_diffusion.web import counted

# How much a guard may fall before a setting no longer wins: motion and sharpness as shares of the baseline's
# mean, the rest in units of the metric. Flicker's is the difference that the power sentence asks for.
DEFAULT_MARGINS: Mapping[str, float] = {
    "flicker": 0.1, "motion": 0.2, "sharpness": 0.1, "prompt_alignment": 0.1, "cuts": 0.25,
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
    """Applies `--set key=value`: a part of the declaration (alpha=0.01), else a setting that all arms share.

    Raises:
        ConfigError: neither.
    """
    name = assignment.partition("=")[0].strip()
    first = name.split(".")[0]
    if first in FIELDS or first == "size":
        return assign(layer, f"settings.{assignment.strip()}", "--set")
    if first and "=" in assignment and first not in ALL_PARTS:
        raise ConfigError(f"--set: no setting '{name}'{nearest(first, (*ALL_PARTS, *FIELDS))}")
    return assign(layer, assignment, "--set")


def design_from(layer: Layer) -> Design:
    """Checks a declaration whole: fields, values, prompts, seeds, baseline and margins.

    Raises:
        ConfigError: the first thing wrong, with file and line, or flag.
    """
    config = validate(CompareConfig, layer)
    if bool(config.arms) == bool(config.grid):
        raise ConfigError(
            "grid or arms must say what is compared, and not both; for example --grid scheduler=[ddim,euler]"
        )
    seeds = _seeds(layer, config.seeds)
    prompts, repeated = _prompts(layer, config.prompts)
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
    """Level of the tests and margins from `--set` texts alone, for clips that are compared as they are.

    Raises:
        ConfigError: anything but alpha and margins.
    """
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


def _seeds(layer: Layer, given: object) -> tuple[int, ...]:
    where = layer.origin(("seeds",))
    try:
        seeds = parse_seeds(given)
    except ValueError as error:
        raise ConfigError(f"{where}: seeds {error} (given {shown(given)})".removeprefix(": ")) from None
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None) if len(seeds) < 1000 else None
    if twice is not None:
        raise ConfigError(f"{where}: seeds has {twice} twice; delete one".removeprefix(": "))
    return tuple(dict.fromkeys(seeds))


def _prompts(layer: Layer, given: Sequence[Any] | str) -> tuple[tuple[str, ...], int]:
    """The prompts, each once, and how many were given again."""
    where = layer.origin(("prompts",))
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
        found = [(f"{where} prompts.{index}", prompt) for index, prompt in enumerate(given)]
    if not found:
        raise ConfigError(f"{where}: prompts must hold one or more texts; add some".removeprefix(": "))
    for at, prompt in found:
        if not isinstance(prompt, str):
            raise ConfigError(f"{at}: a prompt must be text (given {shown(prompt)})")
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise ConfigError(f"{at}: prompt {error} (given {shown(prompt)})") from None
    texts = tuple(dict.fromkeys(str(prompt) for _, prompt in found))
    return texts, len(found) - len(texts)


def _beside(origin: str, name: str) -> Path:
    """A path from a YAML file, relative to that file; from a flag, relative to where the program runs."""
    file = origin.rpartition(":")[0]
    return Path(file).parent / name if Path(file).suffix in {".yaml", ".yml"} else Path(name)
