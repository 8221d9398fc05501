"""`video-diffusion generate --jobs FILE`: its flags, the run with its progress, and its end."""

import atexit
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from video_diffusion.cli.flags import Given, layer_from
from video_diffusion.cli.outputs import EncodingFlags, check_folder
from video_diffusion.cli.terminal import CLIP_FAILED, MACHINE, MODEL, Terminated, say, warn

if TYPE_CHECKING:
    from video_diffusion.jobs import Job, JobSummary, Outcome, Shard
    from video_diffusion.jobs.job_file import Row


MOST = 1024


def shard_of(text: Given, *, quiet: bool) -> "Shard":
    """The shard of `--shard`, or that of the launcher, which is told."""
    from video_diffusion.jobs.job import parse_shard, shard_of_environment

    try:
        if text is not None:
            return parse_shard(str(text))
        shard = shard_of_environment()
    except ValueError as error:
        raise click.UsageError(f"--shard: {error}") from None
    if shard.count > 1 and not quiet:
        say(f"part {shard.index} of {shard.count}, as the launcher says; --shard 0/1 makes everything")
    return shard


def number_of(flag: str, text: Given, *, has_auto: bool = False) -> int | None:
    """A number from 1 to 1024; None where the flag is not given, or is "auto"."""
    if text is None or (has_auto and text == "auto"):
        return None
    if not str(text).isdecimal() or not 1 <= int(str(text)) <= MOST:
        rule = "auto or a number" if has_auto else "a number"
        raise click.UsageError(f"{flag}: must be {rule} from 1 to {MOST} (given {text!r})")
    return int(str(text))


# How far a run over many clips is, in one line; and its end, with the failures listed.


LISTED = 20


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        total: jobs of this process.
        failed: the first few failures.
        first_errors: what the first failure of each kind of exception raised.
    """

    total: int
    made: int = 0
    skipped: int = 0
    num_failed: int = 0
    failed: list[Mapping[str, Any]] = field(default_factory=list)
    first_errors: dict[str, Exception] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: "Outcome") -> None:
        """Counts one job."""
        self.made += outcome.status == "ok"
        self.skipped += outcome.status == "skipped"
        if outcome.status != "failed":
            return
        self.num_failed += 1
        if len(self.failed) < LISTED:
            self.failed.append(outcome.row)
        if outcome.error is not None:
            self.first_errors.setdefault(type(outcome.error).__name__, outcome.error)

    def line(self) -> str:
        """Done, failed and left, with the rate and the time left once a clip was made."""
        left = self.total - self.made - self.skipped - self.num_failed
        text = (
            f"{self.made + self.skipped} done ({self.skipped} before), {self.num_failed} failed, {left} left"
        )
        tried = self.made + self.num_failed
        if not tried:
            return text
        seconds = (time.monotonic() - self.started) / tried
        return f"{text} · {60 / max(seconds, 1e-9):.1f} clips/min · {duration(seconds * left)} to go"

    def end(self) -> None:
        """Lists what failed. If nothing could even be loaded, that is the error of the whole run."""
        if not self.num_failed:
            return
        codes = {getattr(error, "exit_code", CLIP_FAILED) for error in self.first_errors.values()}
        if not self.made and codes <= {MODEL, MACHINE}:
            for error in self.first_errors.values():
                raise error
        say(f"{self.num_failed} failed; results.jsonl has each reason:")
        for row in self.failed:
            say(f"  {row['where']} {row['job_id']}: {row['error']}")
        if self.num_failed > len(self.failed):
            say(f"  and {self.num_failed - len(self.failed)} more")
        raise click.exceptions.Exit(CLIP_FAILED)


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3 h 05 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


# `video-diffusion generate --jobs FILE`: the checks, the run with its progress, and its end.


Command = TypeVar("Command", bound=Callable[..., Any])
MAX_WORDS = 50  # that are told of
OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--jobs",),
        {"metavar": "FILE", "help": "Many clips: .txt .csv .tsv .json .jsonl .yaml, - is stdin."},
    ),
    (("--seeds",), {"metavar": "SEEDS", "help": "One clip for each: 0-9 or 1,5,9-11; as with --jobs."}),
    (("--shard",), {"metavar": "I/N", "help": "Of many clips: every N-th from I (or by torchrun, SLURM)."}),
    (
        ("--batch-size",),
        {"metavar": "N", "help": "Of many clips: number at once, or auto.  [default: auto]"},
    ),
    (("--check",), {"is_flag": True, "help": "Check the settings and stop."}),
    (("--dry-run",), {"is_flag": True, "help": "Show what would be made; of many clips, times a few."}),
    (("--verify",), {"is_flag": True, "help": "Of many clips: read finished ones before skipping them."}),
    (("--fail-fast",), {"is_flag": True, "help": "Of many clips: stop at the first that fails."}),
    (
        ("--engine",),
        {"metavar": "NAME", "help": "Of many clips: local or ray (needs video-diffusion[ray])."},
    ),
    (("--actors",), {"metavar": "N", "help": "With --engine ray: models in memory.  [default: one per GPU]"}),
)


def batch_options(command: Command) -> Command:
    """Adds the flags of a run over a job file."""
    for names, extra in reversed(OPTIONS):
        command = click.option(*names, **extra)(command)
    return command


def refuse_without_jobs(flags: Mapping[str, Given]) -> None:
    """Refuses flags that mean nothing for a single clip."""
    for (name, *_), _ in OPTIONS:
        if name not in {"--check", "--dry-run"} and flags.get(name.removeprefix("--").replace("-", "_")):
            raise click.UsageError(
                f"{name}: works on many clips; give it together with --jobs FILE or --seeds"
            )


def run_batch(
    prompt: str | None,
    out: str | None,
    configs: Sequence[str],
    assignments: Sequence[str],
    flags: Mapping[str, Given],
    encoding: EncodingFlags,
    *,
    embed: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Makes the clips of a job file, or of several seeds; exits with 1 if one failed."""
    from video_diffusion.cli.batch_plan import check_machine, suffix_of
    from video_diffusion.jobs import check_jobs

    source, name = _source(prompt, out, flags)
    folder = Path(out or name)
    batch_size = number_of("--batch-size", flags["batch_size"], has_auto=True)
    engine, num_actors = _engine(flags), number_of("--actors", flags["actors"])
    shard = shard_of(flags["shard"], quiet=quiet)
    suffix = suffix_of(encoding)
    base = layer_from(configs, assignments, flags)
    check_folder(folder)
    summary = check_jobs(source, base)
    if summary.num_repeated and not quiet:
        say(_repeated(summary))

    from video_diffusion.cli.clip_run import warnings_as_lines
    from video_diffusion.jobs import Pipelines, check_models, model_facts, read_jobs, run_jobs

    for note in check_machine(summary, folder, encoding, suffix):
        warn(note)
    pipelines = Pipelines()
    needed = shard.pick(read_jobs(source, base, model_facts, suffix))
    check_models(needed, folder, pipelines, len(summary.loads), overwrite=overwrite)
    if flags["check"]:
        told = source if isinstance(source, Path) else "--seeds"
        say(f"{told}: {summary.count} {'clip' if summary.count == 1 else 'clips'}, nothing wrong")
        return
    jobs = _telling_unknown_words(shard.pick(read_jobs(source, base, model_facts, suffix)))
    if flags["dry_run"]:
        from video_diffusion.cli.batch_plan import show_plan

        hint = "; --check only checks the file"
        show_plan(jobs, folder, pipelines, as_json=as_json, overwrite=overwrite, hint=hint)
        return
    folder.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "verify": bool(flags["verify"]),
        "overwrite": overwrite,
        "encoding": _encoding(encoding, embed),
    }
    if engine == "ray":
        from video_diffusion.jobs.ray_engine import run_jobs_on_ray

        outcomes = run_jobs_on_ray(jobs, folder, num_actors=num_actors, **how)
    else:
        outcomes = run_jobs(jobs, folder, pipelines, **how)
    tally = Tally(len(range(shard.index, summary.count, shard.count)))
    stdout = sys.stdout
    # Ray tells of actors that died on stdout, where only paths and rows belong
    with warnings_as_lines(quiet), closing(outcomes), redirect_stdout(sys.stderr):
        try:
            for outcome in until_failure(outcomes, bool(flags["fail_fast"])):
                tally.add(outcome)
                _show(outcome, folder, stdout, as_json=as_json)
                if not quiet and outcome.status != "skipped":
                    say(tally.line())
        except (KeyboardInterrupt, Terminated, OSError):
            say(f"{tally.line()}; the same command goes on from here")
            raise
    if not quiet and not (tally.made or tally.num_failed):
        say(tally.line())
    tally.end()


def _source(
    prompt: str | None, out: str | None, flags: Mapping[str, Given]
) -> tuple[Path | list["Row"], str]:
    """The job file, or a row with the seeds of one prompt; and how their folder is called if nobody says."""
    from video_diffusion.jobs.job_file import Row
    from video_diffusion.settings.keyframes import earliest
    from video_diffusion.video.files import slug
    from video_diffusion.video.writer import PICTURES, SUFFIXES

    if flags["jobs"] is None:
        if flags.get("seed") is not None:
            raise click.UsageError("--seeds: does not go with --seed; keep one of them")
        if out is not None and Path(out).suffix.lower() in (*SUFFIXES, *PICTURES) and not Path(out).is_dir():
            raise click.UsageError(f"--out: {out} names one clip, but --seeds makes several; name a folder")
        words = {} if prompt is None else {"prompt": prompt}
        title = prompt or earliest(flags.get("prompt_travel")) or "clips"
        return [Row("--seeds", {**words, "seeds": flags["seeds"]})], slug(title)
    if flags["seeds"] is not None:
        raise click.UsageError("--seeds: makes clips of one prompt; with --jobs give the file a column seeds")
    if prompt is not None:
        raise click.UsageError("PROMPT: cannot be given together with --jobs; put it into the file")
    file = _from_stdin() if flags["jobs"] == "-" else Path(str(flags["jobs"]))
    return file, file.stem


def _show(outcome: "Outcome", folder: Path, stdout: TextIO, *, as_json: bool) -> None:
    """A clip's path, or any job's row, on stdout; what went wrong or looks odd on stderr."""
    row = dict(outcome.row) | {"status": outcome.status}
    if as_json:
        click.echo(json.dumps(row), file=stdout)
    elif outcome.status != "failed":
        click.echo(str(folder / outcome.job.file), file=stdout)
    if outcome.status == "failed":
        warn(f"{outcome.job.where}: {row['error']}")
    elif outcome.status == "ok" and row["flags"]:
        warn(f"{outcome.job.where}: {outcome.job.file} is {' and '.join(row['flags'])}")


def _telling_unknown_words(jobs: Iterator["Job"]) -> Iterator["Job"]:
    """Says of each word that a model never learned, once, in which row it stands first."""
    from video_diffusion.jobs import model_facts
    from video_diffusion.settings import shown
    from video_diffusion.text import unknown_words

    told: set[str] = set()
    for job in jobs:
        settings = job.settings
        vocabulary = model_facts(settings.model, settings.motion_adapter).defaults.get("vocabulary", ())
        for word in unknown_words(" ".join(settings.all_prompts), vocabulary):
            if word not in told and len(told) < MAX_WORDS:
                told.add(word)
                warn(f"{job.where}: {settings.model} never learned {shown(word)}")
        yield job


def until_failure(outcomes: Iterator["Outcome"], fail_fast: bool) -> Iterator["Outcome"]:
    """All outcomes, or those up to the first failure."""
    for outcome in outcomes:
        yield outcome
        if fail_fast and outcome.status == "failed":
            return


def _from_stdin() -> Path:
    """What standard input holds as a file, kept until the program ends: it is read more than once."""
    data = sys.stdin.buffer.read()
    suffix = {b"{": ".jsonl", b"[": ".json"}.get(data.lstrip()[:1], ".txt")
    folder = tempfile.mkdtemp(prefix="video-diffusion-jobs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / f"stdin{suffix}"
    file.write_bytes(data)
    return file


def _repeated(summary: "JobSummary") -> str:
    at = ", ".join(summary.repeated[:3]) + (", ..." if summary.num_repeated > 3 else "")
    rows = "1 row asks" if summary.num_repeated == 1 else f"{summary.num_repeated} rows ask"
    return f"{rows} for a clip a second time ({at}); it is made once"


def _encoding(encoding: EncodingFlags, embed: bool) -> dict[str, Any]:
    return {
        "codec": encoding.codec,
        "crf": encoding.crf,
        "pixel_format": encoding.pixel_format,
        "embed_metadata": embed,
    }


def _engine(flags: Mapping[str, Given]) -> str:
    engine = str(flags["engine"] or "local")
    if engine not in {"local", "ray"}:
        raise click.UsageError(f"--engine: must be local or ray (given {engine!r})")
    if engine == "local" and flags["actors"] is not None:
        raise click.UsageError("--actors: works with --engine ray only; leave it out")
    if engine == "ray":
        from video_diffusion.jobs.ray_engine import check_ray

        check_ray()
    return engine
