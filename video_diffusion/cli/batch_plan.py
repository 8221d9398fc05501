"""What is known of a job file before it runs: what would go wrong; with `--dry-run` its time and size."""

import json
import shutil
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.batch import duration
from video_diffusion.cli.clip_run import check_codec, check_inputs, warnings_as_lines
from video_diffusion.cli.outputs import EncodingFlags, check_clip_fits, existing_folder
from video_diffusion.cli.terminal import say, warn
from video_diffusion.settings.errors import one_line

if TYPE_CHECKING:
    from video_diffusion.jobs import Job, JobSummary, Pipelines
    from video_diffusion.sampling import DenoisingStep
    from video_diffusion.settings import GenerationSettings


RECORD_BYTES = 20_000


def suffix_of(encoding: EncodingFlags) -> str:
    """What the clips end in."""
    from video_diffusion.settings.errors import FieldError
    from video_diffusion.video.writer import CODECS, choose_encoding

    if encoding.codec == "png":
        raise click.UsageError(
            "--codec: png makes a folder of each clip; with --jobs take libx264rgb, which is lossless too"
        )
    known = CODECS.get(encoding.codec or "")
    suffix = known.suffixes[0] if known is not None else ".mp4"
    try:
        choose_encoding(f"clip{suffix}", encoding.codec, encoding.crf, encoding.pixel_format)
    except FieldError as error:
        raise click.UsageError(f"{error.flag}: {error}") from None
    return suffix


def check_machine(summary: "JobSummary", folder: Path, encoding: EncodingFlags, suffix: str) -> list[str]:
    """Whether every model and device is there, and every size can be stored; nothing is loaded."""
    from video_diffusion.jobs import model_facts
    from video_diffusion.loading import choose_device
    from video_diffusion.settings import check_quantize, windows_note
    from video_diffusion.video.images import with_sources

    for where, settings in summary.inputs.values():
        with _told_with(where):
            check_inputs(settings)
    place = existing_folder(folder) / f"clip{suffix}"
    check_codec(place, encoding)
    defaults: dict[tuple[str, str | None], Mapping[str, Any]] = {}
    for model, where in summary.models.items():
        with _told_with(where):
            defaults[model] = model_facts(*model).defaults
    for device, where in summary.devices.items():
        with _told_with(where):
            choose_device(device)
    for name, where in summary.quantize.items():
        with _told_with(where):
            check_quantize(name)
    notes: set[str] = set()
    needed = 0
    for where, asked, count in summary.shapes.values():
        with _told_with(where):
            filled = with_sources(asked).with_defaults(defaults[asked.model, asked.motion_adapter])
        if filled.num_frames is None or filled.height is None or filled.width is None or filled.fps is None:
            continue  # such a model tells its size only when it is loaded
        shape = (filled.num_frames, filled.height, filled.width)
        with _told_with(where):
            note = check_clip_fits(place, encoding, shape, filled.fps)
        needed += count * clip_bytes(*shape)
        in_windows = windows_note(asked, filled)
        notes |= {each for each in (note, in_windows and f"{where}: {in_windows}") if each}
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        notes.add(f"these clips take up to {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free")
    return sorted(notes)


def clip_bytes(num_frames: int, height: int, width: int) -> int:
    """What a clip, its record and its row take on disk, at most: noise takes a third of the raw frames."""
    return num_frames * height * width + RECORD_BYTES


@contextmanager
def _told_with(where: str) -> Iterator[None]:
    """Puts the row before the message of what goes wrong inside."""
    from video_diffusion.jobs.runner import told_with

    try:
        with told_with(where):
            yield
    except click.UsageError as error:
        if not where:
            raise
        raise click.UsageError(f"{where}: {error.message}") from None


# `generate --jobs FILE --dry-run`: every job, and what all of them will take in time and on disk.


PROBES = 5


@dataclass
class Kind:
    """Jobs that differ in prompt and seed only: the first one, and how many."""

    job: "Job"
    count: int = 0


def show_plan(
    jobs: Iterable["Job"],
    folder: Path,
    pipelines: "Pipelines",
    *,
    as_json: bool,
    overwrite: bool,
    hint: str = "",
) -> None:
    """Every job on stdout as its path (or a row); how many, how long and how large on stderr.

    `hint` is what else can be done where clips are about to be timed.
    """
    from video_diffusion.jobs import Results
    from video_diffusion.jobs.runner import finished_row
    from video_diffusion.web import counted

    finished = {} if overwrite else Results(folder).finished()
    kinds: dict[Hashable, Kind] = {}
    total = done = 0
    for job in jobs:
        is_done = finished_row(folder / job.file, finished.get(job.job_id, ())) is not None
        row = {"job_id": job.job_id, "file": job.file, "where": job.where, "done": is_done}
        settings = job.settings.model_dump(mode="json", exclude_none=True) if as_json else None
        click.echo(json.dumps(row | {"settings": settings}) if as_json else str(folder / job.file))
        total, done = total + 1, done + is_done
        if not is_done:
            kinds.setdefault(job.batch_key, Kind(job)).count += 1
    if kinds:
        say(f"timing one clip of each of {min(len(kinds), PROBES)} kinds{hint}")
    seconds, size = estimate(list(kinds.values()), pipelines)
    left = counted(total, "clip") + (f", {done} of them done" if done else "")
    free = shutil.disk_usage(existing_folder(folder)).free
    say(f"{left}, about {duration(seconds)}, at most {size / 1e6:.1f} MB ({free / 1e9:.1f} GB free)")
    if size > free:
        warn("the disk may be too small; what is made until it is full stays, and the run can be resumed")


def estimate(kinds: list[Kind], pipelines: "Pipelines") -> tuple[float, int]:
    """Seconds and bytes of all jobs.

    One clip of each of the most frequent kinds is made in two steps and timed; other kinds are scaled by
    their frames, pixels and steps. A kind that cannot be made counts nothing, with a warning.
    """
    seconds, size = 0.0, 0
    per_work: list[float] = []
    with warnings_as_lines():
        for place, kind in enumerate(sorted(kinds, key=lambda kind: -kind.count)):
            try:
                settings = pipelines.get(kind.job.settings).resolve(kind.job.settings)
                work = _work(settings)
                one = work * per_work[0] if place >= PROBES and per_work else _probe(pipelines, settings)
            except OSError:
                raise
            except Exception as error:  # what breaks down now will be a row of the run
                warn(f"{kind.job.where}: {type(error).__name__}: {one_line(error)}")
                continue
            per_work.append(one / work)
            seconds += kind.count * one
            size += kind.count * clip_bytes(*_shape(settings))
    return seconds, size


def _probe(pipelines: "Pipelines", settings: "GenerationSettings") -> float:
    """Seconds that a clip will take: everything once, and the second of two steps for all the others."""
    marks: list[float] = []

    def on_step(step: "DenoisingStep") -> None:
        marks.append(time.perf_counter())

    started = time.perf_counter()
    pipelines.get(settings).generate([settings.model_copy(update={"num_inference_steps": 2})], on_step)
    whole = time.perf_counter() - started
    step = marks[-1] - marks[-2] if len(marks) > 1 else whole
    rounds = max(1, settings.freeinit)
    return whole + rounds * ((settings.num_inference_steps or 2) - 2) * step


def _work(settings: "GenerationSettings") -> int:
    num_frames, height, width = _shape(settings)
    return num_frames * height * width * (settings.num_inference_steps or 1)


def _shape(settings: "GenerationSettings") -> tuple[int, int, int]:
    assert settings.num_frames and settings.height and settings.width  # resolved: nothing is left open
    return settings.num_frames, settings.height, settings.width
