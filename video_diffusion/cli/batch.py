"""`video-diffusion generate --jobs FILE`: the checks, the plan, the run with its progress, and its end."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from video_diffusion.cli.failures import CLIP_FAILED
from video_diffusion.cli.settings_flags import layer_from
from video_diffusion.cli.terminal import say, warn

if TYPE_CHECKING:
    from video_diffusion.jobs import Job, Outcome

Command = TypeVar("Command", bound=Callable[..., Any])
GPU_BATCH = 4
RECORD_BYTES = 20_000
LISTED = 20
OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--jobs",), {"metavar": "FILE", "help": "Many clips: .txt .csv .tsv .jsonl .yaml; -o names a folder."}),
    (("--shard",), {"metavar": "I/N", "help": "With --jobs: every N-th job from I (or by torchrun, SLURM)."}),
    (
        ("--batch-size",),
        {"metavar": "N", "default": "auto", "help": "With --jobs: clips made at once; auto: 1 on a CPU."},
    ),
    (("--dry-run",), {"is_flag": True, "help": "With --jobs: show the jobs, their time and disk."}),
    (("--verify",), {"is_flag": True, "help": "With --jobs: read finished clips before skipping them."}),
    (("--fail-fast",), {"is_flag": True, "help": "With --jobs: stop at the first failing job."}),
)


def batch_options(command: Command) -> Command:
    """Adds the flags of a run over a job file."""
    for names, extra in reversed(OPTIONS):
        command = click.option(*names, **extra)(command)
    return command


def run_batch(
    prompt: str | None,
    out: str | None,
    configs: Sequence[str],
    assignments: Sequence[str],
    flags: Mapping[str, str | bool | None],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Makes the clips of a job file; exits with 1 if one failed.

    Raises:
        ConfigError, click.UsageError: the first thing wrong, before any model is loaded.
        ModelLoadError: no model could be loaded at all.
        OSError: the folder cannot be written.
    """
    from video_diffusion.jobs import Pipelines, check_jobs, model_facts, read_jobs, run_jobs

    if prompt is not None:
        raise click.UsageError("PROMPT: cannot be given together with --jobs; put it into the file")
    file = Path(str(flags["jobs"]))
    batch_size = _batch_size(str(flags["batch_size"]))
    shard = _shard(flags["shard"])
    base = layer_from(configs, assignments, flags).values
    summary = check_jobs(file, base)
    if summary.num_repeated and not quiet:
        at = ", ".join(summary.repeated[:3])
        say(f"{summary.num_repeated} rows ask for a clip a second time ({at}, ...); it is made once")
    folder = Path(out or file.stem)
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out: {folder} is a file; with --jobs it must be a folder")
    jobs = shard.pick(read_jobs(file, base, model_facts))
    if flags["dry_run"]:
        _show_plan(list(jobs), folder, as_json)
        return
    folder.mkdir(parents=True, exist_ok=True)

    from video_diffusion.cli.clip_run import warnings_as_lines

    own = len(range(shard.index, summary.count, shard.count))
    tally = Tally(own)
    with warnings_as_lines():
        outcomes = run_jobs(jobs, folder, Pipelines(), batch_size=batch_size, verify=bool(flags["verify"]))
        try:
            for outcome in _until_failure(outcomes, bool(flags["fail_fast"])):
                tally.add(outcome)
                if outcome.status == "failed":
                    warn(f"{outcome.job.where}: {outcome.row['error']}")
                elif as_json:
                    click.echo(json.dumps(dict(outcome.row) | {"status": outcome.status}))
                else:
                    click.echo(str(folder / outcome.job.file))
                if not quiet:
                    say(tally.line())
        except (KeyboardInterrupt, OSError):
            say(f"{tally.line()}; the same command goes on from here")
            raise
    _end(tally)


@dataclass
class Tally:
    """How far a run is."""

    total: int
    made: int = 0
    skipped: int = 0
    failed: list["Outcome"] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: "Outcome") -> None:
        """Counts one job."""
        self.made += outcome.status == "ok"
        self.skipped += outcome.status == "skipped"
        if outcome.status == "failed":
            self.failed.append(outcome)

    def line(self) -> str:
        """Done, failed and left, with the rate and the time left once a clip was made."""
        left = self.total - self.made - self.skipped - len(self.failed)
        text = (
            f"{self.made + self.skipped} done ({self.skipped} before), {len(self.failed)} failed, {left} left"
        )
        tried = self.made + len(self.failed)
        if not tried:
            return text
        seconds = (time.monotonic() - self.started) / tried
        return f"{text} · {60 / max(seconds, 1e-9):.1f} clips/min · {seconds * left:.0f} s to go"


def _end(tally: Tally) -> None:
    """Lists what failed. If nothing could even be loaded, that is the error of the whole run."""
    from video_diffusion.loading import ModelLoadError

    if not tally.failed:
        return
    first = tally.failed[0].error
    only_loading = all(isinstance(outcome.error, ModelLoadError) for outcome in tally.failed)
    if only_loading and first is not None and not tally.made:
        raise first
    say(f"{len(tally.failed)} failed; results.jsonl has each reason:")
    for outcome in tally.failed[:LISTED]:
        say(f"  {outcome.job.where} {outcome.job.job_id}: {outcome.row['error']}")
    raise click.exceptions.Exit(CLIP_FAILED)


def _until_failure(outcomes: Iterator["Outcome"], fail_fast: bool) -> Iterator["Outcome"]:
    for outcome in outcomes:
        yield outcome
        if fail_fast and outcome.status == "failed":
            return


def _show_plan(jobs: Sequence["Job"], folder: Path, as_json: bool) -> None:
    """Every job on stdout; how many, how long and how large on stderr."""
    seconds, size = _estimate(jobs)
    for job in jobs:
        row = {"job_id": job.job_id, "file": job.file, "where": job.where}
        click.echo(
            json.dumps(row | {"settings": job.settings.model_dump(mode="json", exclude_none=True)})
            if as_json
            else str(folder / job.file)
        )
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    say(f"{len(jobs)} clips, about {seconds:.0f} s, at most {size / 1e6:.1f} MB ({free / 1e9:.1f} GB free)")


def _estimate(jobs: Sequence["Job"]) -> tuple[float, int]:
    """Seconds and bytes of all jobs: one clip of each kind is made in two steps and timed."""
    from video_diffusion.cli.clip_run import warnings_as_lines
    from video_diffusion.jobs import Pipelines

    pipelines, seconds, size = Pipelines(), 0.0, 0
    kinds: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        kinds.setdefault(job.batch_key, []).append(job)
    with warnings_as_lines():
        for alike in kinds.values():
            pipeline = pipelines.get(alike[0].settings)
            resolved = pipeline.resolve(alike[0].settings)
            marks: list[float] = []
            started = time.perf_counter()
            (video,) = pipeline.generate(
                [resolved.model_copy(update={"num_inference_steps": 2})],
                on_step=partial(_mark, marks),
            )
            whole = time.perf_counter() - started
            steps = (resolved.num_inference_steps or 2) - 2
            seconds += len(alike) * (whole + steps * (marks[-1] - marks[-2] if len(marks) > 1 else whole))
            size += len(alike) * (video.frames.nbytes // 3 + RECORD_BYTES)
    return seconds, size


def _mark(marks: list[float], step: object) -> None:
    marks.append(time.perf_counter())


def _shard(text: object) -> Any:
    from video_diffusion.jobs.shard import parse_shard, shard_of_environment

    try:
        return shard_of_environment() if text is None else parse_shard(str(text))
    except ValueError as error:
        raise click.UsageError(f"--shard: {error}") from None


def _batch_size(text: str) -> int:
    if text == "auto":
        import torch

        return GPU_BATCH if torch.cuda.is_available() else 1
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise click.UsageError(f"--batch-size: must be auto or a number from 1 to 1024 (given {text!r})")
    return int(text)
