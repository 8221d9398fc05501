"""`video-diffusion train`: settings, checks, the loop with its progress, what changed in the end."""

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from video_diffusion.cli.recipes import complete_recipes, find_config
from video_diffusion.cli.terminal import (
    INTERRUPTED,
    MACHINE,
    TERMINATED,
    MachineError,
    Progress,
    describe,
    say,
    warn,
)

if TYPE_CHECKING:
    from video_diffusion.settings.training import TrainingSettings
    from video_diffusion.training.loop import TrainingStep
    from video_diffusion.training.run import Run

RUNS_FOLDER = "runs"
OWN_FILES = {".lock", ".owner"}


@click.command(
    epilog="Stop it with Ctrl-C; the same command with --resume goes on where it stopped, exactly."
)
@click.argument("config", required=False, metavar="[CONFIG]", shell_complete=complete_recipes("train"))
@click.option("--data", multiple=True, metavar="DIR", help="Folder of clips; repeatable.")
@click.option("-o", "--output", metavar="RUN", help="Folder of the run.  [default: runs/NAME OF CONFIG]")
@click.option("--model", metavar="MODEL", help="'embedded', a folder or a hub id.")
@click.option("--motion-adapter", metavar="PATH", help="Temporal layers to start from.")
@click.option("--target", metavar="NAME", help="temporal, motion_lora or domain_lora.")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Optimizer steps.")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda, ...")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting; repeatable.")
@click.option("--resume", is_flag=True, help="Go on with the run in RUN; without CONFIG, as it began.")
@click.option(
    "--allow",
    metavar="KEYS",
    help="Settings, as KEY,KEY, that may differ when going on; 'data' for the clips.",
)
@click.option("--strict", is_flag=True, help="Stop if any clip of the folders cannot be used.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be trained, train nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout at the end.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but warnings and errors.")
def train(
    config: str | None,
    data: tuple[str, ...],
    output: str | None,
    assignments: tuple[str, ...],
    resume: bool,
    allow: str | None,
    strict: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **flags: str | int | None,
) -> None:
    """Fine-tune the temporal layers of a model on clips, as CONFIG and the flags say.

    The run's folder goes to stdout. `generate --motion-adapter RUN` uses it at once, also while it trains.
    """
    main = int(os.environ.get("RANK", "0")) == 0  # of several processes, the first owns the folder
    with one_voice(main):
        settings, folder = settings_from(config, data, output, assignments, flags, resume)
        allowed = allowed_keys(allow, resume)
        if main:
            check_folder(folder, resume)
    from video_diffusion.cli.clip_run import warnings_as_lines
    from video_diffusion.training.run_folder import CONFIG_FILE, RunFolder, owned

    with warnings_as_lines(), owned(folder) if main else nullcontext(RunFolder(folder)) as place:
        from video_diffusion.training.run import cache_line, open_run

        started = time.monotonic()
        if main and not dry_run and not (folder / CONFIG_FILE).exists():
            place.write_config(settings)  # so that --resume begins what is killed from here on
        with one_voice(main):
            progress = Progress(quiet or not main, "clip of the teacher")
            run = open_run(settings, place, allowed=allowed, on_clip=progress.step)
            progress.clear()
        if strict and run.sources.unused:
            raise ValueError(f"--strict: {run.sources.unused[0]}")
        if main and not quiet:
            say(plan_line(run))
            if told := cache_line(run):
                say(told)
        for line in (*passed_over(run, resume), *run.sources.unused) if main else ():
            warn(line)
        if dry_run:
            return
        train_run(run, quiet=quiet or as_json or not main)
        if main:
            report(run, as_json=as_json, quiet=quiet, seconds=time.monotonic() - started)


@contextmanager
def one_voice(main: bool) -> Iterator[None]:
    """Of several processes that refuse the same thing, let the first say so.

    torchrun, which started them, prints a traceback of its own whenever one fails; it is told the reason, and
    the line is followed by a word on what comes then.
    """
    try:
        yield
    except (ValueError, click.UsageError) as error:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            raise
        code, line = describe(error)
        if line is None:
            raise
        if main:
            say(line, "error", "red")
            say("what torchrun prints below is its own and says no more than this line")
        raise click.exceptions.Exit(code) from None


def allowed_keys(allow: str | None, resume: bool) -> tuple[str, ...]:
    """The settings of `--allow`, each of which there must be."""
    from video_diffusion.settings import nearest
    from video_diffusion.settings.training import TrainingSettings

    if allow is None:
        return ()
    if not resume:
        raise click.UsageError("--allow: says what may differ from the run so far; give it with --resume")
    keys = tuple(key.strip() for key in allow.split(","))
    known = TrainingSettings.names()
    for key in keys:
        if key not in known:
            raise click.UsageError(f"--allow: no setting {key!r}{nearest(key, known)}")
    return keys


def settings_from(
    config: str | None,
    data: Sequence[str],
    output: str | None,
    assignments: Sequence[str],
    flags: Mapping[str, str | int | None],
    resume: bool,
) -> tuple["TrainingSettings", Path]:
    """Lay config file, `--set` texts and flags over each other, check the result, and name the folder."""
    from video_diffusion.settings import Layer, assign, merge, read_config, set_value, validate
    from video_diffusion.settings.training import TrainingSettings
    from video_diffusion.training.run_folder import CONFIG_FILE

    layer = Layer({})
    if config is None and resume and not data:
        if output is None:
            raise click.UsageError("--resume: needs --output RUN, the folder of the run, or its CONFIG")
        if not (Path(output) / CONFIG_FILE).is_file():
            raise click.UsageError(
                f"--resume: {output} has no {CONFIG_FILE}, so nothing was begun there; give CONFIG to begin"
            )
        config = str(Path(output) / CONFIG_FILE)
    if config is not None:
        layer = merge(layer, read_config(find_config(config, "train")))
    for assignment in assignments:
        layer = assign(layer, assignment)
    if data:
        layer = set_value(layer, ["data"], list(data), "--data")
    named = {"steps": "num_steps"}
    for flag, value in flags.items():
        if value is not None:
            layer = set_value(layer, [named.get(flag, flag)], value, f"--{flag.replace('_', '-')}")
    if config is None and not {"data", "distil"} & layer.values.keys():
        raise click.UsageError("CONFIG: is missing; give a config file, or --data DIR for the defaults")
    settings = validate(TrainingSettings, layer)
    name = output or settings.output or f"{RUNS_FOLDER}/{Path(config).stem if config else 'train'}"
    return settings, Path(name)


def check_folder(folder: Path, resume: bool) -> None:
    """Whether a run can begin, or go on, in a folder."""
    from video_diffusion.video.files import remove_dead_parts

    if folder.is_file():
        raise click.UsageError(f"--output: {folder} is a file; name a folder")
    there: set[str] = set()
    if folder.is_dir():
        remove_dead_parts(folder)  # of a run that was killed while it began
        there = {path.name for path in folder.iterdir() if path.name not in OWN_FILES}
    begun = there & {"metrics.jsonl", "checkpoints"} or there >= {"config.yaml", "cache"}
    if begun and not resume:
        raise click.UsageError(f"--output: {folder} holds a run; --resume goes on with it, or name another")
    if not begun and there - {"config.yaml", "cache"}:
        raise click.UsageError(f"--output: {folder} holds other files; name a new or empty folder")


def train_run(run: "Run", quiet: bool) -> None:
    """Trains to the end; the first Ctrl-C or SIGTERM saves at the next step and ends the program."""
    from video_diffusion.training.run import fit

    progress, trainer = StepLine(quiet), run.trainer
    with stop_requests() as requests, memory_advice(run):
        for step in fit(run, lambda: bool(requests)):
            progress.show(step)
            if run.anybody(bool(requests)):
                break
        progress.clear()
        if run.anybody(bool(requests)):
            if run.saved_at < trainer.step:
                run.save()
            again = f"--output {shlex.quote(str(run.folder.folder))} --resume"
            if not quiet:
                num_steps = trainer.settings.num_steps
                say(f"stopped after step {trainer.step} of {num_steps}, saved; {again} goes on")
            first = requests[0] if requests else signal.SIGTERM
            raise click.exceptions.Exit(INTERRUPTED if first == signal.SIGINT else TERMINATED)


@contextmanager
def memory_advice(run: "Run") -> Iterator[None]:
    """Tell memory that ran out in a step with what a training can do about it, by the settings' names."""
    try:
        yield
    except Exception as error:
        code, line = describe(error)
        if code != MACHINE or isinstance(error, OSError) or not (line or "").startswith("out of memory"):
            raise
        settings, step = run.trainer.settings, run.trainer.step
        on_gpu = run.trainer.accelerator.device.type == "cuda"
        per_turn = settings.batch_size // settings.gradient_accumulation_steps
        ways = {
            "mixed_precision: bf16": settings.mixed_precision == "no",
            "gradient_checkpointing: true": not settings.gradient_checkpointing,
            f"gradient_accumulation_steps: {settings.batch_size}": per_turn > 1,
            "optimizer.name: adamw_8bit": on_gpu and settings.optimizer.name == "adamw",
            "fewer clips.num_frames": True,
            "smaller clips.height and clips.width": True,
            "target: motion_lora": settings.target == "temporal",
        }
        chosen = ", ".join(way for way, helps in ways.items() if helps)
        reason = next((text.strip() for text in str(error).splitlines() if text.strip()), "no reason given")
        saved = (
            f"--resume --allow KEYS goes on from step {run.saved_at}" if run.saved_at else "none is saved yet"
        )
        raise MachineError(
            f"out of memory in step {step + 1} ({reason}); any of these needs less: {chosen}; {saved}"
        ) from error


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects the first signal that asks to stop; a second one of its kind ends the program at once."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        requests.append(number)
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StepLine:
    """One line that says where the training is, on terminals; elsewhere a line every minute."""

    SECONDS_BETWEEN_LINES = 60.0

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.pace: float | None = None
        self.said = time.monotonic()

    def show(self, step: "TrainingStep") -> None:
        """Shows a step: its loss, rate, seconds per step and the time left."""
        if self.quiet:
            return
        self.pace = step.seconds if self.pace is None else 0.9 * self.pace + 0.1 * step.seconds
        left = self.pace * (step.num_steps - step.step)
        line = (
            f"step {step.step}/{step.num_steps} · loss {step.loss:.4f} · rate {step.learning_rate:.2e} · "
            f"{self.pace:.2f} s/step · {_duration(left)} left"
        )
        if self.live:
            click.echo(f"\r{line}   ", err=True, nl=False)
        elif time.monotonic() - self.said > self.SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            say(line)

    def clear(self) -> None:
        """Takes the line away."""
        if self.live:
            click.echo("\r" + " " * 100 + "\r", err=True, nl=False)


def passed_over(run: "Run", resume: bool) -> Iterator[str]:
    """What somebody who resumes must know: no checkpoint to go on from, or newer ones that do not verify."""
    folder, step = run.folder.checkpoints, run.trainer.step
    newer = [path for path in sorted(folder.glob("step-*")) if int(path.name.removeprefix("step-")) > step]
    for checkpoint in newer:
        yield f"{checkpoint} is not whole and is passed over; the run goes on from step {step}"
    if resume and step == 0 and not newer:
        yield f"--resume: {run.folder.folder} has no checkpoint yet, so the run begins at step 0"
    for number in run.folder.damaged_lines():
        yield f"{run.folder.metrics}:{number}: is damaged, so the report does without this line"
    for line in run.changes:
        yield f"going on with another setting: {line}"
    for number in sorted(number for number in run.trainer.broken_steps if number > step):
        yield f"step {number} broke before (its loss was not finite) and is left out"


def plan_line(run: "Run") -> str:
    """What is trained, on what, and from where."""
    trainer = run.trainer
    settings = trainer.settings
    count = sum(parameter.numel() for parameter in trainer.target.parameters.values())
    clips = " + ".join(f"{number} clips of {name}" for name, number in run.sources.num_clips.items())
    held_out = sum(len(each) for each in run.sources.held_out)
    start = f", from step {trainer.step}" if trainer.step else ""
    processes = trainer.accelerator.num_processes
    where = (
        f"{processes} × {trainer.accelerator.device.type}" if processes > 1 else trainer.accelerator.device
    )
    return (
        f"{settings.target}: {count:,} parameters of {settings.model}, {clips} ({held_out} held out), "
        f"{settings.num_steps} steps of {settings.batch_size} clips{start}, on {where}"
    )


def report(run: "Run", as_json: bool, quiet: bool, seconds: float) -> None:
    """The run's folder on stdout, or all facts as JSON; in the last line, what changed."""
    from video_diffusion.training.validation import what_changed

    validations = run.validations()
    changed = what_changed(validations[0], validations[-1]) if len(validations) > 1 else ""
    folder = run.folder.folder
    if as_json:
        steps = [row for row in run.folder.rows() if "loss" in row]
        facts = {
            "run": str(folder),
            "steps": run.trainer.step,
            "loss": steps[-1]["loss"] if steps else None,
            "seconds": round(seconds, 3),
            "changed": changed,
            "validations": [each.to_row()["validation"] | {"step": each.step} for each in validations],
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(str(folder))
    if not quiet:
        say(f"trained {run.trainer.step} steps in {_duration(run.seconds)}")
        if changed:
            say(changed)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"
