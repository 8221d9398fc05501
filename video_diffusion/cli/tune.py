"""`video-diffusion tune`: the best settings for some prompts, confirmed on prompts that it never saw."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.diagnose import budget_of
from video_diffusion.cli.outputs import EncodingFlags, check_folder
from video_diffusion.cli.recipes import complete_recipes, find_config
from video_diffusion.cli.terminal import Progress, Terminated, printable, say, warn

if TYPE_CHECKING:
    from video_diffusion.comparison.alignment import PromptMeter
    from video_diffusion.comparison.summary import ComparisonSummary
    from video_diffusion.jobs import Job, Pipelines
    from video_diffusion.tuning.declaration import TuneDesign
    from video_diffusion.tuning.report import Tuning
    from video_diffusion.tuning.search import Search, Step, Tried

EXAMPLES = """\b
video-diffusion tune embedded -o best
video-diffusion tune configs/tune/embedded.yaml --trials 60 --workers 2
video-diffusion generate "a red circle" --config best/best.yaml"""


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="FILE.yaml", shell_complete=complete_recipes("tune"))
@click.option("-o", "--out", metavar="FOLDER", help="Where all goes.  [default: the file's name]")
@click.option("--trials", metavar="N", help="Settings to try.  [default: the file's, or 30]")
@click.option("--budget", metavar="TIME", help="That the search may take, such as 10m; its clips count.")
@click.option("--workers", metavar="N", default="1", help="Processes on this machine.  [default: 1]")
@click.option("--engine", metavar="NAME", default="local", help="local.  [default: local]")
@click.option(
    "--storage", metavar="PLACE", help="Optuna's: a file or a database's URL.  [default: in FOLDER]"
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="For every clip; or trials=9.")
@click.option(
    "--a-a", "against_itself", is_flag=True, help="Nothing to find: every trial is the start again."
)
@click.option("--clip-model", metavar="FOLDER", help="Local CLIP weights for prompt alignment.")
@click.option("--dry-run", is_flag=True, help="Say how many clips there will be, and their time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--helper", is_flag=True, hidden=True)
def tune(
    source: str,
    out: str | None,
    trials: str | None,
    budget: str | None,
    workers: str,
    engine: str,
    storage: str | None,
    assignments: tuple[str, ...],
    against_itself: bool,
    clip_model: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    helper: bool,
) -> None:
    """Search the settings that FILE names for the best, and confirm it on prompts that the search never saw.

    Several objectives; poor settings end early. FOLDER gets tuning.html, best.yaml for `generate --config`,
    summary.json and every clip. The last sentence is that of a paired test against the starting settings, on
    the prompts that were kept back. The same command goes on from what is there, with more trials too.
    """
    from video_diffusion.cli.batch import number_of
    from video_diffusion.tuning.search import check_optuna

    if engine != "local":
        ray = "; Ray would load the model anew for every trial: start the command on each machine instead"
        raise click.UsageError(f"--engine: must be local (given {engine!r}){ray if engine == 'ray' else ''}")
    num_workers = number_of("--workers", workers) or 1
    folder = Path(out or f"{Path(source).stem}{'-a-a' if against_itself else ''}")
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out: {folder} is a file; name a folder")
    check_folder(folder)
    check_optuna()
    seconds = None if budget is None else budget_of(budget)
    design = _design(source, assignments, trials, seconds, has_clip=bool(clip_model), a_a=against_itself)
    words = [source, "-o", str(folder), *(f"--set={text}" for text in assignments)]
    given = {"trials": trials, "budget": budget, "storage": storage, "clip-model": clip_model}
    words += [f"--{name}={value}" for name, value in given.items() if value]
    words += ["--a-a"] if against_itself else []
    pipelines, jobs = _checked(design, folder)
    if dry_run:
        _show_plan(design, jobs, pipelines, num_workers)
        return
    _run(design, folder, storage, pipelines, clip_model, num_workers, words, as_json=as_json, quiet=quiet,
         helper=helper)  # fmt: skip


def _design(
    source: str, assignments: Sequence[str], trials: str | None, seconds: float | None, *, has_clip: bool,
    a_a: bool,
) -> "TuneDesign":  # fmt: skip
    """File, then `--set`, then the named flags."""
    from video_diffusion.cli.flags import plain_value
    from video_diffusion.settings import read_config, set_value
    from video_diffusion.tuning.declaration import read_tune_assignment, tune_design_from

    layer = read_config(find_config(source, "tune"))
    for text in assignments:
        layer = read_tune_assignment(layer, text)
    if trials is not None:
        layer = set_value(layer, ["trials"], plain_value(trials), "--trials")
    if seconds is not None:
        layer = set_value(layer, ["budget"], seconds, "--budget")
    return tune_design_from(layer, has_clip, a_a)


def _checked(design: "TuneDesign", folder: Path) -> "tuple[Pipelines, list[Job]]":
    """Whether the machine can make such clips; the model of the start is loaded if a clip is left to make."""
    from video_diffusion.cli.batch_plan import check_machine
    from video_diffusion.jobs import JobSummary, Pipelines, check_models
    from video_diffusion.tuning.search import jobs_of

    named = [{}, *(preset.values for preset in design.presets)]
    choices = [{each.name: value} for each in design.search for value in each.choices or ()]
    jobs = [jobs_of(design, 0, values, 1)[0] for values in named]
    overview = JobSummary(count=len(jobs))
    for job in [*jobs, *(jobs_of(design, 0, values, 1)[0] for values in choices)]:
        overview.add(job.settings, job.where)
    for note in check_machine(overview, folder, EncodingFlags(), ".mp4"):
        warn(note)
    pipelines = Pipelines()
    if folder.exists():
        check_models(jobs[:1], folder, pipelines, 1)
    else:
        pipelines.get(jobs[0].settings)
    return pipelines, jobs


def _show_plan(design: "TuneDesign", jobs: "Sequence[Job]", pipelines: "Pipelines", num_workers: int) -> None:
    """How many clips there will be, and their time by timing the start and the presets."""
    from video_diffusion.cli.batch import duration
    from video_diffusion.cli.batch_plan import Kind, estimate
    from video_diffusion.web import counted

    seeds = len(design.seeds)
    fewest = (len(design.prompts) + (design.trials - 1) * design.rungs[0]) * seeds
    most = design.trials * len(design.prompts) * seeds
    confirm = 2 * len(design.confirm_prompts) * len(design.confirm_seeds)
    one = [estimate([Kind(job, 1)], pipelines) for job in jobs]
    seconds = sum(each for each, _ in one) / len(one)
    low, high = ((count / num_workers + confirm) * seconds for count in (fewest, most))
    size = sum(each for _, each in one) / len(one) * (most + confirm)
    say(
        f"{counted(design.trials, 'trial')}: {fewest} to {most} clips, by how many settings end early, and "
        f"{confirm} to confirm; about {duration(low)} to {duration(high)}, at most {size / 1e6:.0f} MB"
    )


def _run(
    design: "TuneDesign", folder: Path, storage: str | None, pipelines: "Pipelines", clip_model: str | None,
    num_workers: int, words: list[str], *, as_json: bool, quiet: bool, helper: bool,
) -> None:  # fmt: skip
    from video_diffusion.cli.clip_run import use_threads, warnings_as_lines
    from video_diffusion.cli.compare import open_meter
    from video_diffusion.tuning.report import write_folder
    from video_diffusion.tuning.search import Search, TimedMeter

    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    if num_workers > 1:
        use_threads(threads)
    with warnings_as_lines(quiet):
        search = Search(design, folder, storage, pipelines, open_meter(clip_model, TimedMeter), num_workers)
        try:
            with _helpers(words, 0 if helper else num_workers - 1, threads):
                _watch(search, design, quiet=quiet or as_json, parent=os.getppid() if helper else None)
            if helper:
                return
            tried = search.tried()
            others = sum(each.outcome == "in the making" for each in tried)
            if others:
                say(f"{others} trials are with other processes; once they are made, the same command goes on")
                return
            command = shlex.join(["video-diffusion", "tune", *words])
            found = _end(
                search, design, folder, pipelines, clip_model, tried, command, quiet=quiet or as_json
            )
        except (KeyboardInterrupt, Terminated, OSError):
            say("the same command goes on from what is there")
            raise
    written = write_folder(found, folder)
    _show(found, written, as_json=as_json)


@contextmanager
def _helpers(words: Sequence[str], count: int, threads: int) -> Iterator[None]:
    """Further processes over the same folder; when this one ends, in whatever way, they do."""
    command = [sys.executable, "-m", "video_diffusion", "tune", *words, "--helper", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
        for process in running:
            process.wait()
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _watch(search: "Search", design: "TuneDesign", *, quiet: bool, parent: int | None) -> None:
    """Makes the trials, with a line for each; a helper stops when its parent is gone."""
    progress = Progress(quiet, "clip")
    progress.note("loading the model")
    try:
        for step in search.steps():
            if parent is not None and os.getppid() != parent:
                return
            if step.ended is None:
                progress.note(
                    f"{step.label} · {step.num_trials}/{design.trials} trials · {step.num_clips} clips"
                )
            elif not quiet:
                progress.clear()
                say(_line(step, design))
    finally:
        progress.clear()


def _line(step: "Step", design: "TuneDesign") -> str:
    """A trial that has ended: "7/24 trial 6: morph 0.41, motion 4.1 · guidance_scale 1.2"."""
    from video_diffusion.tuning.report import words_of

    trial = step.ended
    assert trial is not None
    means = ", ".join(f"{name} {value:.3g}" for name, value in trial.means.items())
    early = f", ended after {trial.num_prompts} prompts" if trial.outcome == "ended early" else ""
    head = f"{step.num_trials}/{design.trials} {trial.label}"
    return f"{head}: {trial.why or means}{early} · {words_of(trial.values)}"


def _end(
    search: "Search", design: "TuneDesign", folder: Path, pipelines: "Pipelines", clip_model: str | None,
    tried: "Sequence[Tried]", command: str, *, quiet: bool,
) -> "Tuning":  # fmt: skip
    """Take the winner, make the clips of the kept-back prompts, and judge."""
    from video_diffusion.cli.compare import open_meter
    from video_diffusion.tuning import choice
    from video_diffusion.tuning.report import Tuning
    from video_diffusion.tuning.search import TimedMeter

    meter = open_meter(clip_model, TimedMeter)
    whole = [each for each in tried if each.outcome == "all prompts"]
    summary = winner = confirm = None
    largest = ""
    if len(whole) > 1:
        comparison = choice.comparison_of(design, whole, design.prompts, design.seeds, design.title)
        summary = choice.compared(comparison, choice.planned_clips(comparison), folder, meter, command)
        label, largest = choice.choose(summary, design)
        winner = next((each for each in whole if each.label == label), None)
    judgement = choice.nothing_found(design, len(tried) - 1, largest)
    if winner is not None:
        search.add_confirmed(winner.number)
        confirm = _confirmed(search, design, folder, pipelines, meter, tried, command, quiet=quiet)
        judgement = choice.judge(confirm, design, winner.label)
    return Tuning(design, tuple(tried), judgement, summary, winner, confirm, command)


def _confirmed(
    search: "Search", design: "TuneDesign", folder: Path, pipelines: "Pipelines", meter: "PromptMeter",
    tried: "Sequence[Tried]", command: str, *, quiet: bool,
) -> "ComparisonSummary":  # fmt: skip
    """The start against every setting that was ever taken, on the kept-back prompts."""
    from video_diffusion.comparison.run import make_clips, unique_jobs
    from video_diffusion.tuning import choice
    from video_diffusion.tuning.report import CONFIRM
    from video_diffusion.video import write_bytes

    taken = [each for each in tried if each.number in {0, *search.confirmed()}]
    comparison = choice.comparison_of(
        design, taken, design.confirm_prompts, design.confirm_seeds, f"{design.title}: confirmed"[:300]
    )
    write_bytes(folder / CONFIRM, comparison.to_yaml().encode())
    planned = choice.planned_clips(comparison)
    jobs, progress = unique_jobs(planned), Progress(quiet, "clip to confirm")
    for done, outcome in enumerate(make_clips(jobs, folder, pipelines, meter), start=1):
        if outcome.status == "failed":
            warn(f"{outcome.job.where}: {outcome.row['error']}")
        progress.step(done, len(jobs))
    progress.clear()
    return choice.compared(comparison, planned, folder, meter, command)


def _show(found: "Tuning", written: Sequence[Path], *, as_json: bool) -> None:
    from video_diffusion.tuning.report import answer, words_of

    if as_json:
        content: dict[str, Any] = {**answer(found), "files": [str(path) for path in written]}
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    for path in written[:2]:
        click.echo(str(path))
    if found.winner is not None:
        click.echo(printable(f"{found.winner.label}: {words_of(found.winner.values)}"))
    click.echo(printable(found.judgement.sentence))
