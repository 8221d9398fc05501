"""A job: one clip's settings, its id, its file name and where it was asked for; the share of one process."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from video_diffusion.jobs.job_file import Row, read_rows
from video_diffusion.settings import (
    ConfigError,
    GenerationSettings,
    KeyPath,
    Layer,
    model_defaults,
    parse_size,
    shown,
    validate,
)
from video_diffusion.settings.errors import one_line
from video_diffusion.video import weights_sha256
from video_diffusion.video.files import slug
from video_diffusion.video.images import with_sources


@dataclass(frozen=True)
class ModelFacts:
    """Hashes that stand for a model and its temporal layers in job ids, and the settings it leaves open."""

    identity: Mapping[str, Any]
    defaults: Mapping[str, Any]


@cache
def model_facts(model: str, motion_adapter: str | None) -> ModelFacts:
    """Read and hash the files of a model, once per process; nothing is loaded.

    Raises:
        ModelLoadError: There is no such model.
    """
    from video_diffusion.loading import find_model  # noqa: PLC0415 - a job file is checked without torch

    settings = open_settings(model, motion_adapter)  # first: what is no adapter is not hashed
    identity: dict[str, Any] = {
        "weights_sha256": weights_sha256(find_model(model).folder),
        "motion_adapter_sha256": None,
    }
    if motion_adapter == "none":
        identity["motion_adapter"] = "none"
    elif motion_adapter is not None:
        identity["motion_adapter_sha256"] = weights_sha256(find_model(motion_adapter).adapter_folder)
    return ModelFacts(identity, settings)


@cache
def open_settings(model: str, motion_adapter: str | None) -> Mapping[str, Any]:
    """What a model makes of settings that are left open, read from its files; see `model_defaults`."""
    from video_diffusion.loading import detect, find_model  # noqa: PLC0415 - see above
    from video_diffusion.loading.motion import distilled_settings  # noqa: PLC0415
    from video_diffusion.loading.weights import read_json  # noqa: PLC0415

    def read(file: Path) -> Mapping[str, Any]:
        return read_json(file) if file.is_file() else {}

    folder = find_model(model).folder
    unet, vae = read(folder / "unet" / "config.json"), read(folder / "vae" / "config.json")
    own = image_own = read(folder / "generation_defaults.json")
    adapter = read(folder / "motion_adapter" / "config.json")
    trained = {**unet, **adapter}  # diffusers' motion U-Net is fused
    if motion_adapter == "none":
        trained = {name: value for name, value in trained.items() if not name.startswith("noise_")}
    elif motion_adapter is not None:
        found = detect(find_model(motion_adapter).adapter_folder)
        own, trained = {**own, **found.defaults}, dict(found.config)
    else:
        own = {**own, **distilled_settings(adapter)}
    return model_defaults(unet, vae, trained, own, model, image_own)


# A job: one clip's settings, its id, its file name and where it was asked for.


MAX_SEEDS = 10_000  # of one row
MAX_SEED = 2**63 - 1
SLUG_BYTES = 80
MAX_TOLD = 20  # rows that are named one by one
# what a batch must agree on
BATCH_FIELDS = tuple(
    name for name in GenerationSettings.model_fields if name not in {"prompt", "negative_prompt", "seed"}
)
SHAPE_FIELDS = (
    "model", "motion_adapter", "num_frames", "height", "width", "fps", "context_length", "freenoise",
    "position_stretch", "extend", "refine",
)  # fmt: skip
_SEEDS = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?")

Facts = Callable[[str, str | None], ModelFacts]


@dataclass(frozen=True)
class Job:
    """One clip to make.

    Attributes:
        settings: with the model's own defaults filled in, as far as its folder tells them.
        job_id: 12 hex digits over everything that changes the pixels, the weights included.
        file: name of the clip in the output folder: a safe slug, the seed and the id.
        where: for messages, such as "jobs.csv:3".
        loaded_from: where its model and adapter are named; "" if in several places, or nowhere.
    """

    settings: GenerationSettings
    job_id: str
    file: str
    where: str
    loaded_from: str = ""

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Equal for jobs that can be made in one batch."""
        return tuple(str(getattr(self.settings, name)) for name in BATCH_FIELDS)


LOADED = ("model", "motion_adapter", "vae", "text_encoder", "dtype", "quantize", "device")


def loaded_by(settings: GenerationSettings) -> tuple[str | None, ...]:
    """What of a clip's settings says which pipeline is loaded."""
    return tuple(getattr(settings, name) for name in LOADED)


def _place(names: Iterable[str], row: Row, base: Layer) -> str:
    """Where these settings of a row were written: in it or in what all share; "" if in several."""
    places = {
        row.places.get(name, row.where) if name in row.values else base.origin((name,))
        for name in names
        if name in row.values or name in base.values
    }
    return places.pop() if len(places) == 1 else row.where if row.values.keys() & set(names) else ""


@dataclass
class JobSummary:
    """What a check of a whole job file found.

    Attributes:
        count: different jobs.
        repeated: "jobs.csv:7" for each row that asks for a clip a second time; at most 20 are kept.
        num_repeated: how many there are.
        models: every (model, motion adapter) that is asked for, and the row that asks first.
        loads: every pipeline that has to be loaded, see `loaded_by`.
        devices, quantize: as `models`.
        inputs: for files and adapters that clips start from, the first row that names them and its settings.
        shapes: for everything that decides frames, their size and rate, the first row that asks for it, its
            settings and the number of jobs.
    """

    count: int = 0
    repeated: list[str] = field(default_factory=list)
    num_repeated: int = 0
    models: dict[tuple[str, str | None], str] = field(default_factory=dict)
    loads: set[tuple[str | None, ...]] = field(default_factory=set)
    devices: dict[str, str] = field(default_factory=dict)
    quantize: dict[str | None, str] = field(default_factory=dict)
    inputs: dict[tuple[Any, ...], tuple[str, GenerationSettings]] = field(default_factory=dict)
    shapes: dict[tuple[Any, ...], tuple[str, GenerationSettings, int]] = field(default_factory=dict)

    def add(
        self, settings: GenerationSettings, where: str, place: Callable[[Iterable[str]], str] | None = None
    ) -> None:
        """Notes what a job asks of models, devices and files; `place` tells where settings were written."""
        place = place or (lambda _: where)
        self.models.setdefault((settings.model, settings.motion_adapter), place(LOADED[:2]))
        self.loads.add(loaded_by(settings))
        self.devices.setdefault(settings.device, place(["device"]))
        self.quantize.setdefault(settings.quantize, place(["quantize"]))
        files: tuple[Any, ...] = (
            *settings.input_files.items(), *settings.networks.items(), *settings.loras, *settings.embeddings,
            *settings.named_in_prompts,
        )  # fmt: skip
        if files:
            named = [*settings.input_files, *settings.networks, "loras", "embeddings"]
            named += ["prompt", "negative_prompt"] if settings.named_in_prompts else []
            self.inputs.setdefault(files, (place(name.split(".")[0] for name in named), settings))
        shape = tuple(getattr(settings, name) for name in SHAPE_FIELDS)
        first, its_settings, count = self.shapes.get(shape, (where, settings, 0))
        self.shapes[shape] = first, its_settings, count + 1


class JobFileError(ConfigError):
    """Everything wrong with a job file.

    Args:
        problems: One line each, the first few.
        count: How many there are.
    """

    def __init__(self, problems: Sequence[str], count: int) -> None:
        left = count - len(problems)
        self.problems = [*problems, *([f"and {left} more rows"] if left else [])]
        super().__init__("\n".join(self.problems))


def check_jobs(source: Path | Sequence[Row], base: Layer | Mapping[str, Any]) -> JobSummary:
    """Check every row of a job file against the settings; nothing but the ids is kept in memory.

    Args:
        source: the file, or rows without one.
        base: settings for all rows, from flags and config files; rows win.

    Raises:
        ConfigError: a value that all rows share is wrong; where it came from is told.
        JobFileError: everything wrong with the rows, with file, line and field.
    """
    base = base if isinstance(base, Layer) else Layer(base)
    shared = Layer({"prompt": "-", **base.values}, base.origins)
    if "prompt_travel" not in shared.values:
        validate(GenerationSettings, shared)
    summary = JobSummary()
    seen: set[bytes] = set()
    problems: list[str] = []
    num_problems = 0
    for row in _rows(source):
        try:
            for settings, _ in list(_expand(row, base)):
                summary.add(settings, row.where, partial(_place, row=row, base=base))
                digest = hashlib.blake2b(settings.canonical_json().encode(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    summary.count += 1
                    continue
                summary.num_repeated += 1
                if len(summary.repeated) < MAX_TOLD:
                    summary.repeated.append(row.where)
        except (ValueError, OSError) as error:
            where = "" if isinstance(error, ConfigError) else f"{row.where}: "
            num_problems += 1
            problems += [f"{where}{one_line(error)}"] if len(problems) < MAX_TOLD else []
    if problems:
        raise JobFileError(problems, num_problems)
    return summary


def read_jobs(
    source: Path | Sequence[Row], base: Layer | Mapping[str, Any], facts: Facts, suffix: str = ".mp4"
) -> Iterator[Job]:
    """The jobs of a file in its order, each once.

    Args:
        source: as in `check_jobs`.
        base: as in `check_jobs`.
        facts: weights and defaults of a model; see `model_facts`.
        suffix: of the clips.
    """
    seen: set[str] = set()
    base = base if isinstance(base, Layer) else Layer(base)
    for row in _rows(source):
        for settings, name in _expand(row, base):
            try:
                job = make_job(settings, facts, row.where, name, suffix)
            except ValueError as error:
                if type(error) is not ValueError:  # of a model or a clip, which it names
                    raise
                raise ConfigError(f"{row.where}: {one_line(error)}") from None
            job = replace(job, loaded_from=_place(LOADED, row, base))
            if job.job_id not in seen:
                seen.add(job.job_id)
                yield job


def _rows(source: Path | Sequence[Row]) -> Iterable[Row]:
    return read_rows(source) if isinstance(source, Path) else source


def make_job(
    settings: GenerationSettings, facts: Facts, where: str, name: str | None = None, suffix: str = ".mp4"
) -> Job:
    """A job from checked settings; `name` is used instead of the prompt in the clip's file name."""
    known = facts(settings.model, settings.motion_adapter)
    resolved = with_sources(settings).with_defaults(known.defaults)
    job_id = resolved.job_id(known.identity)
    stem = slug(name if name is not None else settings.prompt, SLUG_BYTES)
    return Job(resolved, job_id, f"{stem}-{settings.seed}-{job_id}{suffix}", where, where)


def parse_seeds(value: object) -> list[int]:
    """Seeds from a number, a list of numbers, or a text such as "0-7" or "1, 5, 9-11".

    >>> parse_seeds("1, 5, 9-11")
    [1, 5, 9, 10, 11]
    """
    rule = 'must be numbers such as 3, "0-7" or "1, 5, 9-11"'
    parts: list[object] = list(value) if isinstance(value, list) else [*str(value).split(",")]
    if isinstance(value, (bool, float, dict)) or value is None or not parts:
        raise ValueError(rule)
    seeds: list[int] = []
    for part in parts:
        found = None if isinstance(part, (bool, float)) else _SEEDS.fullmatch(str(part).strip())
        if found is None:
            raise ValueError(rule)
        first, last = int(found[1]), int(found[2] or found[1])
        if last > MAX_SEED:
            raise ValueError(f"must be numbers from 0 to {MAX_SEED}")
        if last < first:
            raise ValueError(f"has the range {first}-{last}, which runs backwards")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ValueError(f"must be at most {MAX_SEEDS} numbers")
        seeds += range(first, last + 1)
    return seeds


def _expand(row: Row, base: Layer) -> Iterator[tuple[GenerationSettings, str | None]]:
    """The settings of a row, one for each of its seeds, and the name it gives."""
    values = {**base.values, **row.values}
    name = values.pop("name", None)
    if name is not None:
        _check_name(row.where, name)
    if "size" in row.values:
        if {"width", "height"} & row.values.keys():
            raise ConfigError(f"{row.where}: gives size together with width or height; keep one")
        try:
            width, height = parse_size(values.pop("size"))
        except ValueError as error:
            raise ConfigError(f"{row.where}: size {error} (given {shown(row.values['size'])})") from None
        values |= {"width": width, "height": height}
    if "seeds" in row.values:
        if "seed" in row.values:
            raise ConfigError(f"{row.where}: gives both seed and seeds; keep one")
        try:
            seeds = parse_seeds(values.pop("seeds"))
        except ValueError as error:
            raise ConfigError(f"{row.where}: seeds {error} (given {shown(row.values['seeds'])})") from None
    else:
        seeds = [values.get("seed", 0)]
    # Every value keeps where it came from: a flag or a config file is not blamed on the first row.
    own: dict[KeyPath, str] = {("prompt",): row.where, ("seed",): row.where}
    origins = {**own, **base.origins, (): row.where}
    for key in values.keys() - (base.values.keys() - row.values.keys()):
        origins[key,] = row.places.get(key, row.where)
    first = validate(GenerationSettings, Layer({**values, "seed": seeds[0]}, origins))
    yield first, name
    for seed in seeds[1:]:
        yield first.model_copy(update={"seed": seed}), name


def _check_name(where: str, name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{where}: name must be text (given {shown(name)})")
    if any(sign in name for sign in "/\\\0") or name in {".", ".."} or re.match(r"[A-Za-z]:", name):
        raise ConfigError(f"{where}: name must not hold a path (given {shown(name)}); clips go to one folder")


# Which jobs are this process's: every n-th, without a word between the processes.


Item = TypeVar("Item")

# (this process, all processes) as launchers tell them: torchrun and accelerate launch, then SLURM
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"shard must be i/n with n of 1 or more (given {self.index}/{self.count})")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard must be i/n with i from 0 to n-1 (given {self.index}/{self.count}); "
                f"the last of {self.count} is {self.count - 1}/{self.count}"
            )

    def pick(self, items: Iterable[Item]) -> Iterator[Item]:
        """This shard's items, in order."""
        return islice(items, self.index, None, self.count)


def parse_shard(text: str) -> Shard:
    """A shard from "0/4"."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None:
        raise ValueError(f"shard must be i/n, such as 0/4 for the first of four (given {text!r})")
    return Shard(int(found[1]), int(found[2]))


def shard_of_environment(environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that a launcher gave this process, or everything."""
    for own, all_of_them in LAUNCHERS:
        index, count = environment.get(own, ""), environment.get(all_of_them, "")
        if index.isdecimal() and count.isdecimal():
            try:
                return Shard(int(index), int(count))
            except ValueError as error:
                raise ValueError(f"{own} and {all_of_them}: {error}") from None
    return Shard()
