"""A declared search: YAML in; checked settings to search, objectives, prompts and kept-back prompts out."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, RootModel

from video_diffusion.comparison.alignment import is_procedural, read_prompt
from video_diffusion.comparison.design import (
    ALL_PARTS,
    DEFAULT_MARGINS,
    FIELDS,
    OTHER_SEEDS_FROM,
    SHARED,
    DeclaredArm,
    check_shared,
    check_values,
    named_arms,
    read_prompts,
    read_seeds,
    shown_values,
)
from video_diffusion.comparison.statistics import GUARDS, prompts_to_reach
from video_diffusion.jobs.job import open_settings
from video_diffusion.metrics import ALL_METRICS
from video_diffusion.settings import (
    ConfigError,
    GenerationSettings,
    Layer,
    assign,
    dump,
    nearest,
    shown,
    validate,
)

START = "start"
"""The settings that all trials stand apart from: always the first trial."""
TIME = "time"
BY_CLIP = ("clip_adjacent", "clip_all_pairs", "background_consistency")
MARGINS: Mapping[str, float] = {**DEFAULT_MARGINS, "flicker": 0.3, TIME: 0.1}
"""As those of `compare`; but flicker may rise by what can be seen, in levels, since it only guards here."""
OTHER_MARGIN = 0.1  # as a share
MOST_OBJECTIVES = 4
PARTS = ("search", "presets", "objectives", "confirm", "rungs", "trials", "budget")


@dataclass(frozen=True)
class Searched:
    """One setting that is searched.

    Attributes:
        name: A field of `GenerationSettings`.
        choices: Its values, or None for a range.
        low, high: Ends of the range, which belong to it.
        is_whole: Whether the setting is a whole number.
        log: Whether the range is searched in its logarithm.
        step: Distance of neighbouring values; None for any.
        only_if: Other searched settings and the values of them with which this one counts.
    """

    name: str
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    is_whole: bool = False
    log: bool = False
    step: float | None = None
    only_if: Mapping[str, tuple[Any, ...]] | None = None

    def holds(self, value: Any) -> bool:
        """Whether a value is one that the search may come upon."""
        if self.choices is not None:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Whether the setting is searched beside these values of others."""
        return all(name in values and values[name] in wanted for name, wanted in (self.only_if or {}).items())


class ConfirmConfig(BaseModel):
    """Prompts and seeds that the search never sees; `prompts` may be how many of the list are kept back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: list[Any] | str | int
    seeds: Any = None


class TuneConfig(BaseModel):
    """The YAML form of a search; `settings`, `prompts`, `seeds`, `margins`, `alpha` as in `CompareConfig`.

    Attributes:
        search: Setting → a list of values, or {range: [low, high], log: true, step: 0.5}; with `only_if`.
        presets: Name → settings to try first; the start is always tried.
        objectives: Metrics, the first to be bettered, the others not to be lost; or `time`.
        confirm: See `ConfirmConfig`.
        rungs: After how many prompts poor settings end; the last is all of them.
        trials: How many settings are tried.
        budget: Seconds that making the clips of the search may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: Annotated[str, Field(max_length=300)] = ""
    settings: dict[str, Any] | None = None
    search: dict[str, Any]
    presets: dict[str, Any] | None = None
    objectives: Annotated[list[str], Field(min_length=1, max_length=MOST_OBJECTIVES)]
    prompts: list[Any] | str
    seeds: Any = 0
    confirm: ConfirmConfig
    rungs: list[Annotated[int, Field(ge=1)]] | None = None
    trials: Annotated[int, Field(ge=2, le=10_000)] = 30
    budget: Annotated[float, Field(gt=0)] | None = None
    margins: dict[str, Annotated[float, Field(ge=0)]] = {}
    alpha: Annotated[float, Field(ge=0.0001, le=0.5)] = 0.05


@dataclass(frozen=True)
class TuneDesign:
    """A checked search; attributes as in `TuneConfig`.

    Attributes:
        base: Settings of all clips.
        presets: Tried first, in order; the start is not among them.
        directions: Of the objectives: +1 where more is better.
        confirm_prompts, confirm_seeds: Kept back.
        a_a: Whether every trial is the start with other seeds, so that there is nothing to find.
    """

    title: str
    base: Mapping[str, Any]
    search: tuple[Searched, ...]
    presets: tuple[DeclaredArm, ...]
    objectives: tuple[str, ...]
    directions: tuple[int, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    confirm_prompts: tuple[str, ...]
    confirm_seeds: tuple[int, ...]
    rungs: tuple[int, ...]
    trials: int
    budget: float | None
    margins: Mapping[str, float]
    alpha: float
    a_a: bool = False

    @property
    def parts(self) -> dict[str, str]:
        """What must not change between two runs over one storage, part by part, as hashes."""
        values = {
            "settings": self.base,
            "search": [
                [each.name, each.choices, each.low, each.high, each.log, each.step, each.only_if]
                for each in self.search
            ],
            "presets": [[each.label, each.values] for each in self.presets],
            "objectives": self.objectives,
            "prompts": self.prompts,
            "seeds": self.seeds,
            "confirm": [self.confirm_prompts, self.confirm_seeds],
            "rungs": self.rungs,
            "margins": self.margins,
            "alpha": self.alpha,
            "--a-a": self.a_a,
        }
        texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in values.items()}
        return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}

    def settings_of(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of a trial's clips."""
        return self.base if self.a_a else {**self.base, **values}

    def seeds_of(self, trial: int, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds of a trial's clips: the same for all, but in an A/A run."""
        shift = OTHER_SEEDS_FROM * (1 + trial) if self.a_a and trial else 0
        return tuple(seed + shift for seed in seeds)


def read_tune_assignment(layer: Layer, assignment: str) -> Layer:
    """Apply `--set key=value`: a part of the declaration (trials=9), else a setting of all clips."""
    first = assignment.partition("=")[0].strip().split(".")[0]
    if first in FIELDS or first == "size":
        return assign(layer, f"settings.{assignment.strip()}", "--set")
    known = sorted({*ALL_PARTS, *PARTS} - {"arms", "grid", "baseline"})
    if "=" in assignment and first not in known:
        raise ConfigError(f"--set: no setting '{first}'{nearest(first, (*known, *FIELDS))}")
    return assign(layer, assignment, "--set")


def tune_design_from(layer: Layer, has_clip: bool = False, a_a: bool = False) -> TuneDesign:
    """Check a declaration whole.

    Args:
        layer: The file and what was laid over it.
        has_clip: Whether CLIP's weights are given.
        a_a: See `TuneDesign`.

    Raises:
        ConfigError: The first thing wrong, in one line.
    """
    config = validate(TuneConfig, layer)
    base = check_shared(layer)
    search = _search(layer, base)
    presets = named_arms(layer, base, 0, "presets") if config.presets else ()
    for preset in presets:
        if preset.label == START or preset.seeds is not None:
            raise ConfigError(f"{layer.origin(('presets', preset.label))}: presets.{preset.label}: the start "
                              "is tried anyway, and seeds are those of the search; take it out")  # fmt: skip
    seeds = read_seeds(layer, config.seeds)
    prompts, _ = read_prompts(layer, config.prompts)
    prompts, kept, kept_seeds = _confirm(layer, config, prompts, seeds)
    directions = tuple(_directions(layer, config, base, (*prompts, *kept), has_clip=has_clip))
    margins = {**MARGINS, **config.margins}
    for name in config.margins:
        if name not in {*MARGINS, *config.objectives}:
            where = layer.origin(("margins", name))
            raise ConfigError(f"{where}: no margin '{name}'{nearest(name, [*MARGINS, *config.objectives])}")
    rungs = _rungs(layer, config.rungs, len(prompts))
    return TuneDesign(
        config.title, base, search, presets, tuple(config.objectives), directions, prompts, seeds, kept,
        kept_seeds, rungs, config.trials, config.budget, margins, config.alpha, a_a,
    )  # fmt: skip


def best_yaml(values: Mapping[str, Any], head: str) -> str:
    """Settings for `generate --config`, with comment lines above."""
    own = GenerationSettings.from_values({"prompt": "any", **values}).model_dump(mode="json")
    kept = RootModel[dict[str, Any]]({name: own[name] for name in FIELDS if name in values})
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return f"{comment}schema_version: 1\n{dump(kept) if kept.root else ''}"


# The parts of a declaration.


def _where(layer: Layer, at: tuple[str, ...]) -> str:
    origin = layer.origin(at)
    return f"{origin}: " if origin else ""


def _search(layer: Layer, base: Mapping[str, Any]) -> tuple[Searched, ...]:
    """Every searched setting, those that others depend on first."""
    given = layer.values["search"]
    if not given:
        raise ConfigError(f"{_where(layer, ('search',))}search must name one or more settings; add one")
    waiting = [_searched(layer, name, value, base) for name, value in given.items()]
    ordered: list[Searched] = []
    while waiting:
        known = {each.name for each in ordered}
        free = [each for each in waiting if set(each.only_if or {}) <= known]
        if not free:
            name = waiting[0].name
            others = ", ".join(waiting[0].only_if or {})
            raise ConfigError(
                f"{_where(layer, ('search', name))}search.{name}.only_if must name other searched settings, "
                f"without a circle (given {others}); search them, or leave the condition out"
            )
        ordered += free
        waiting = [each for each in waiting if each not in free]
    return tuple(ordered)


def _searched(layer: Layer, name: str, given: Any, base: Mapping[str, Any]) -> Searched:
    at, title = ("search", name), f"search.{name}"
    where = _where(layer, at)
    if name in SHARED:
        raise ConfigError(f"{where}{title} is no matter of taste; list it under {SHARED[name]}")
    if name not in FIELDS:
        raise ConfigError(f"{where}no setting '{title}'{nearest(name, FIELDS)}")
    spec = {"choices": given} if isinstance(given, list) else given
    if not isinstance(spec, dict) or ("choices" in spec) == ("range" in spec):
        raise ConfigError(
            f"{where}{title} must be a list of values, or {{range: [low, high]}} (given {shown(given)})"
        )
    for key in spec:
        if key not in {"choices", "range", "log", "step", "only_if"}:
            raise ConfigError(
                f"{_where(layer, (*at, key))}no part '{title}.{key}'"
                f"{nearest(key, ('choices', 'range', 'log', 'step', 'only_if'))}"
            )
    only_if = {other: tuple(value if isinstance(value, list) else [value])
               for other, value in (spec.get("only_if") or {}).items()}  # fmt: skip
    if "range" in spec:
        return _ranged(layer, name, spec, only_if, base)
    values = spec["choices"]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}{title} has no choice; list two or more values (given {shown(values)})")
    for value in values:
        check_values(layer, at, {name: value}, base)
    texts = shown_values(values)
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}{title} has {twice} twice; delete one")
    return Searched(name, tuple(values), only_if=only_if)


def _ranged(
    layer: Layer, name: str, spec: Mapping[str, Any], only_if: Mapping[str, tuple[Any, ...]],
    base: Mapping[str, Any],
) -> Searched:  # fmt: skip
    at, title = ("search", name), f"search.{name}"
    where, ends = _where(layer, at), spec["range"]
    kinds = _number_kinds(name)
    if not kinds:
        raise ConfigError(f"{where}{title} is no number, so it has no range; list its values")
    is_numbers = isinstance(ends, list) and len(ends) == 2 and all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in ends
    )  # fmt: skip
    if not is_numbers or ends[0] >= ends[1]:
        raise ConfigError(f"{where}{title}.range must be [low, high] with low < high (given {shown(ends)})")
    for end in ends:
        check_values(layer, at, {name: end}, base)
    log, step, is_whole = spec.get("log", False), spec.get("step"), float not in kinds
    if not isinstance(log, bool) or (log and (ends[0] <= 0 or step is not None)):
        raise ConfigError(
            f"{where}{title}.log must be true or false, and goes with a range above 0 without a step "
            f"(given {shown(log)})"
        )
    has_step = isinstance(step, int | float) and not isinstance(step, bool) and 0 < step <= ends[1] - ends[0]
    if step is not None and (not has_step or (is_whole and step != int(step))):
        raise ConfigError(
            f"{where}{title}.step must be {'a whole number' if is_whole else 'a number'} above 0 that fits "
            f"the range (given {shown(step)})"
        )
    low, high = map(float, ends)
    return Searched(name, None, low, high, is_whole, log, None if step is None else float(step), only_if)


def _number_kinds(name: str) -> set[type]:
    annotation = GenerationSettings.model_fields[name].annotation
    return {int, float} & {annotation, *get_args(annotation)}


def _confirm(
    layer: Layer, config: TuneConfig, prompts: tuple[str, ...], seeds: tuple[int, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """The prompts of the search, those kept back, and the seeds kept back: none is in both."""
    given, at = config.confirm.prompts, ("confirm", "prompts")
    needed = prompts_to_reach(config.alpha)
    if isinstance(given, int):
        if not 0 < given < len(prompts):
            raise ConfigError(
                f"{_where(layer, at)}confirm.prompts must leave some of the {len(prompts)} prompts to the "
                f"search (given {given})"
            )
        prompts, kept = prompts[:-given], prompts[-given:]
    else:
        kept, _ = read_prompts(layer, given, at)
    seen = {" ".join(prompt.lower().split()) for prompt in prompts}
    both = next((prompt for prompt in kept if " ".join(prompt.lower().split()) in seen), None)
    if both is not None:
        raise ConfigError(
            f"{_where(layer, at)}confirm.prompts must be none that the search sees (given {shown(both)}); "
            "take it out of one of the two"
        )
    if len(kept) < needed:
        raise ConfigError(
            f"{_where(layer, at)}confirm.prompts must be {needed} or more, since fewer cannot reach "
            f"{config.alpha:g} in the test (given {len(kept)}); add some"
        )
    own = config.confirm.seeds
    kept_seeds = (
        tuple(OTHER_SEEDS_FROM + seed for seed in seeds)
        if own is None
        else read_seeds(layer, own, ("confirm", "seeds"))
    )
    shared = sorted(set(kept_seeds) & set(seeds))
    if shared:
        raise ConfigError(
            f"{_where(layer, ('confirm', 'seeds'))}confirm.seeds must be none that the search sees (given "
            f"{shared[0]}); take others"
        )
    return prompts, kept, kept_seeds


def _directions(
    layer: Layer, config: TuneConfig, base: Mapping[str, Any], prompts: Sequence[str], *, has_clip: bool
) -> Iterator[int]:
    """+1 for each objective where more is better, else -1; one that cannot be measured is refused."""
    own: dict[str, Literal["lower", "higher", "neither"]] = {m.name: m.direction for m in ALL_METRICS}
    own |= {"prompt_alignment": "higher", TIME: "lower", **dict.fromkeys(BY_CLIP, "higher")}
    for place, name in enumerate(config.objectives):
        where = layer.origin(("objectives", str(place))) or layer.origin(("objectives",))
        where = f"{where}: " if where else ""
        if name not in own:
            raise ConfigError(f"{where}objectives has no measure '{name}'{nearest(name, own)}")
        if config.objectives.count(name) > 1:
            raise ConfigError(f"{where}objectives has {name} twice; delete one")
        sign = {"lower": -1, "higher": 1, "neither": GUARDS.get(name, 0)}[own[name]]
        if not sign:
            raise ConfigError(
                f"{where}objectives: {name} only describes, neither way is better; take another measure"
            )
        if name in BY_CLIP and not has_clip:
            raise ConfigError(
                f"{where}objectives: {name} cannot be measured without CLIP's weights; give --clip-model "
                "FOLDER"
            )
        if name == "prompt_alignment" and not has_clip:
            _check_readable(where, base, prompts)
        yield sign


def _check_readable(where: str, base: Mapping[str, Any], prompts: Sequence[str]) -> None:
    settings = GenerationSettings.from_values({"prompt": "any", **base})
    words = open_settings(settings.model, settings.motion_adapter).get("vocabulary", ())
    unread = next((prompt for prompt in prompts if read_prompt(prompt) is None), None)
    if not is_procedural(tuple(words)) or unread is not None:
        why = "of this model" if unread is None else f"for the prompt {shown(unread)}"
        raise ConfigError(
            f"{where}objectives: prompt_alignment cannot be measured {why} without CLIP's weights; give "
            "--clip-model FOLDER, or leave it out"
        )


def _rungs(layer: Layer, given: Sequence[int] | None, num_prompts: int) -> tuple[int, ...]:
    """How many prompts are made before poor settings end: a quarter, half, then all."""
    if given is None:
        return tuple(sorted({max(1, num_prompts // 4), max(1, num_prompts // 2), num_prompts}))
    rungs = [*given, num_prompts] if given and given[-1] < num_prompts else list(given)
    if not rungs or sorted(set(rungs)) != rungs or rungs[-1] > num_prompts:
        raise ConfigError(
            f"{_where(layer, ('rungs',))}rungs must be rising numbers of prompts, at most {num_prompts} "
            f"(given {shown(list(given))})"
        )
    return tuple(rungs)
