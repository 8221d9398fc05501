"""`video-diffusion compare`: settings held against a baseline by prompt and seed, or clips of any tool."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.outputs import EncodingFlags, check_folder
from video_diffusion.cli.recipes import complete_recipes, find_config
from video_diffusion.cli.terminal import CLIP_FAILED, MODEL, Progress, Terminated, printable, say, warn

if TYPE_CHECKING:
    from video_diffusion.comparison.alignment import PromptMeter
    from video_diffusion.comparison.design import Design
    from video_diffusion.comparison.summary import ComparisonSummary, Difference
    from video_diffusion.comparison.verdict import Findings

EXAMPLES = """\b
video-diffusion compare configs/compare/temporal-layers.yaml -o layers
video-diffusion compare --grid scheduler=[ddim,euler] --grid guidance_scale=[3,7.5]
    --prompts prompts.txt --seeds 0-1 --baseline "scheduler=ddim, guidance_scale=3"
video-diffusion compare --clips ours=clips/ours theirs=clips/theirs"""


@dataclass(frozen=True)
class RunFlags:
    """How a comparison is run, as typed."""

    out: Path
    shard: str | None
    batch_size: str | None
    verify: bool
    fail_fast: bool
    overwrite: bool
    clip_model: str | None
    reference: Path | None
    as_json: bool
    quiet: bool


@click.command(epilog=EXAMPLES)
@click.argument("sources", nargs=-1, metavar="[CONFIG.yaml]", shell_complete=complete_recipes("compare"))
@click.option(
    "--grid", "grids", multiple=True, metavar="KEY=[A,B]", help="A setting and its values; repeatable."
)
@click.option("--prompts", metavar="FILE", help="A prompt a line (.txt), or a job file of prompts.")
@click.option("--seeds", metavar="SEEDS", help='Such as "0-7" or "1, 5, 9".  [default: 0]')
@click.option(
    "--baseline", metavar="ARM", help='Label or values, such as "scheduler=ddim".  [default: the first]'
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="For every arm; or alpha=0.01."
)
@click.option(
    "--clips", multiple=True, metavar="A=DIR B=DIR", help="Compare clips that are there, paired by name."
)
@click.option("--a-a", "against_itself", is_flag=True, help="The baseline against itself with other seeds.")
@click.option("-o", "--out", metavar="FOLDER", help="Where all goes.  [default: the config's name]")
@click.option("--shard", metavar="I/N", help="Make every N-th clip from I (or by torchrun, SLURM).")
@click.option("--batch-size", metavar="N", help="Clips made at once, or auto.  [default: 1]")
@click.option("--verify", is_flag=True, help="Read finished clips again before they are taken as they are.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failing clip; nothing is compared.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--clip-model", metavar="FOLDER", help="Local CLIP weights for prompt alignment.")
@click.option("--reference", metavar="FOLDER", help="Do the clips of each setting move like these?")
@click.option("--dry-run", is_flag=True, help="Show the clips, their time and disk.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def compare(
    sources: tuple[str, ...],
    grids: tuple[str, ...],
    prompts: str | None,
    seeds: str | None,
    baseline: str | None,
    assignments: tuple[str, ...],
    clips: tuple[str, ...],
    against_itself: bool,
    out: str | None,
    shard: str | None,
    batch_size: str | None,
    verify: bool,
    fail_fast: bool,
    overwrite: bool,
    clip_model: str | None,
    reference: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare settings: the same prompts and the same noise under each, held against a baseline.

    A setting wins only if flicker falls while motion, sharpness and prompt alignment hold. The folder gets
    report.html, summary.md, summary.json, metrics.csv, config.yaml and the clips. The same command goes on
    from what is there; a setting or seed more runs only what is new.
    """
    folder = Path(out or _default_name(sources, clips))
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out: {folder} is a file; name a folder")
    check_folder(folder)
    if reference:
        from video_diffusion.comparison.reference import check_reference

        check_reference(Path(reference))
    flags = RunFlags(
        folder, shard, batch_size, verify, fail_fast, overwrite, clip_model,
        Path(reference) if reference else None, as_json, quiet,
    )  # fmt: skip
    if clips:
        _refuse_with_clips(
            {
                "--grid": grids, "--prompts": prompts, "--seeds": seeds, "--baseline": baseline,
                "--a-a": against_itself, "--shard": shard, "--batch-size": batch_size, "--verify": verify,
                "--fail-fast": fail_fast, "--overwrite": overwrite,
            }
        )  # fmt: skip
        _run_clips([*clips, *sources], assignments, flags, dry_run=dry_run)
        return
    design = _design(sources, grids, prompts, seeds, baseline, assignments)
    design = design.against_itself() if against_itself else design
    if not quiet:
        from video_diffusion.web import counted

        say(
            f"{len(design.arms)} arms × {counted(len(design.prompts), 'prompt')} × "
            f"{counted(len(design.seeds), 'seed')} = "
            f"{counted(design.num_clips, 'clip')}; the baseline is {design.arms[0].label}"
        )
    _run_design(design, flags, dry_run=dry_run)


def _design(
    sources: Sequence[str],
    grids: Sequence[str],
    prompts: str | None,
    seeds: str | None,
    baseline: str | None,
    assignments: Sequence[str],
) -> "Design":
    """File, then `--set`, then the named flags."""
    from video_diffusion.comparison.design import design_from, read_assignment
    from video_diffusion.settings import Layer, assign, merge, read_config, set_value

    if len(sources) > 1:
        raise click.UsageError(
            f"CONFIG: one file at a time (given {len(sources)}); use extends: in it instead"
        )
    layer = Layer({})
    for name in sources:
        layer = merge(layer, read_config(find_config(name, "compare")))
    for text in assignments:
        layer = read_assignment(layer, text)
    if grids and "arms" in layer.values:
        values = {name: value for name, value in layer.values.items() if name != "arms"}
        layer = Layer(values, layer.origins)
    for text in grids:
        if "=" not in text:
            raise click.UsageError(
                f"--grid: needs KEY=[A,B] (given {text!r}); for example guidance_scale=[2.5,5]"
            )
        layer = assign(layer, f"grid.{text.strip()}", "--grid")
    for name, value in (("prompts", prompts), ("seeds", seeds), ("baseline", baseline)):
        if value is not None:
            layer = set_value(layer, [name], value, f"--{name}")
    if not layer.values:
        raise click.UsageError("CONFIG: is missing; give a file, or --grid and --prompts")
    return design_from(layer)


def _default_name(sources: Sequence[str], clips: Sequence[str]) -> str:
    return Path(sources[0]).stem if sources and not clips else "comparison"


def _refuse_with_clips(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise click.UsageError(
                f"{name}: makes clips, but --clips compares those that are there; leave it out"
            )


def _run_design(design: "Design", flags: RunFlags, *, dry_run: bool) -> None:
    """Makes the clips, compares them, writes the folder; exits with 1 if a clip failed."""
    from video_diffusion.cli.batch import Tally, number_of, shard_of, until_failure
    from video_diffusion.cli.batch_plan import check_machine
    from video_diffusion.cli.clip_run import warnings_as_lines
    from video_diffusion.comparison.report import CONFIG
    from video_diffusion.comparison.run import collect, make_clips, plan, unique_jobs
    from video_diffusion.jobs import JobSummary, Pipelines, check_models, model_facts
    from video_diffusion.video import write_bytes
    from video_diffusion.web import counted

    folder, shard = flags.out, shard_of(flags.shard, quiet=flags.quiet)
    size = number_of("--batch-size", flags.batch_size or "1", has_auto=True)
    planned = list(plan(design, model_facts))
    jobs = unique_jobs(planned)
    overview = JobSummary(count=len(jobs))
    for job in jobs:
        overview.add(job.settings, job.where)
    for note in check_machine(overview, folder, EncodingFlags(), ".mp4"):
        warn(note)
    own, pipelines = list(shard.pick(jobs)), Pipelines()
    check_models(own, folder, pipelines, len(overview.loads), overwrite=flags.overwrite)
    if dry_run:
        from video_diffusion.cli.batch_plan import show_plan

        show_plan(own, folder, pipelines, as_json=flags.as_json, overwrite=flags.overwrite)
        return
    meter = open_meter(flags.clip_model)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG, design.to_yaml().encode())
    tally = Tally(len(own))
    with warnings_as_lines():
        outcomes = make_clips(
            own, folder, pipelines, meter,
            batch_size=size, verify=flags.verify, overwrite=flags.overwrite,
        )  # fmt: skip
        try:
            with closing(outcomes):
                for outcome in until_failure(outcomes, flags.fail_fast):
                    tally.add(outcome)
                    if outcome.status == "failed":
                        warn(f"{outcome.job.where}: {outcome.row['error']}")
                    if not flags.quiet and outcome.status != "skipped":
                        say(tally.line())
        except (KeyboardInterrupt, Terminated, OSError):
            say(f"{tally.line()}; the same command goes on from here")
            raise
        if not flags.quiet and tally.made + tally.num_failed == 0:
            say(tally.line())
        if flags.fail_fast:
            tally.end()
        command = shlex.join(["video-diffusion", "compare", str(folder / CONFIG), "-o", str(folder)])
        found = collect(design, planned, folder, meter, command)
        missing = len(planned) - len(found.clips)
        if missing:
            left = counted(missing, "clip")
            say(f"{left} left to other processes; once all are made, the same command compares them")
        elif any(arm.num_clips for arm in found.arms):
            _finish(found, flags)
    tally.end()


def _finish(found: "Findings", flags: RunFlags) -> None:
    """Compares, writes the folder, and tells what was found on stdout."""
    from video_diffusion.comparison.reference import motion_against
    from video_diffusion.comparison.report import with_earlier_looks, write_folder
    from video_diffusion.comparison.verdict import summarise

    if flags.reference is not None:
        labels = [arm.label for arm in found.arms]
        sets = motion_against(flags.reference, labels, found.clips, flags.out)
        command = f"{found.command} {shlex.join(['--reference', str(flags.reference)])}"
        found = replace(found, sets=sets, reference=str(flags.reference), command=command)
    summary = summarise(with_earlier_looks(found, flags.out))
    written = write_folder(summary, flags.out)
    if flags.as_json:
        click.echo(json.dumps(_answer(summary, written), ensure_ascii=False))
        return
    for text in summary.warnings:
        warn(text)
    click.echo("\n".join([*_lines(summary), str(written[0])]))


def open_meter(clip_model: str | None, kind: "type[PromptMeter] | None" = None) -> "PromptMeter":
    """Prompt alignment, with CLIP if its weights are given; of a kind that measures more, if one is named."""
    from video_diffusion.comparison.alignment import PromptMeter

    meter = kind or PromptMeter
    if clip_model is None:
        return meter()
    from video_diffusion.metrics.learned.weights import MetricWeightsError

    try:
        return meter(clip_model)
    except MetricWeightsError as error:
        raise _WeightsRefused(str(error)) from None


class _WeightsRefused(click.ClickException):
    exit_code = MODEL


def _lines(summary: "ComparisonSummary") -> list[str]:
    """The sentence, then the verdicts in two columns if there are several."""
    lines = [printable(summary.sentence)]
    if len(summary.verdicts) > 1:
        lines += [
            f"  {printable(each.arm)}: {each.words}: {printable(each.sentence)}" for each in summary.verdicts
        ]
    if summary.sets:
        from video_diffusion.comparison.reference import in_words

        lines += [f"  {printable(each.arm)}: {in_words(each)}" for each in summary.sets]
    return lines + ([summary.power] if summary.power else [])


def _answer(summary: "ComparisonSummary", written: Sequence[Path]) -> dict[str, Any]:
    headline = {each.arm: each for metric in summary.metrics[:1] for each in metric.differences}
    return {
        "sentence": summary.sentence,
        "baseline": summary.baseline,
        "verdicts": [
            {
                "arm": each.arm,
                "outcome": each.outcome,
                "words": each.words,
                "sentence": each.sentence,
                "flicker": _difference(headline[each.arm]),
            }
            for each in summary.verdicts
        ],
        "sets": [asdict(each) for each in summary.sets],
        "warnings": list(summary.warnings),
        "power": summary.power,
        "num_clips": sum(arm.num_clips for arm in summary.arms),
        "num_failed": sum(arm.num_failed for arm in summary.arms),
        "files": [str(path) for path in written],
    }


def _difference(found: "Difference") -> dict[str, Any]:
    span = found.span
    return {
        "difference": None if span is None else span.estimate,
        "low": None if span is None else span.low,
        "high": None if span is None else span.high,
        "p": found.adjusted_p,
        "num_pairs": found.num_pairs,
    }


def _run_clips(texts: Sequence[str], assignments: Sequence[str], flags: RunFlags, *, dry_run: bool) -> None:
    """Measures every clip that has a partner, compares, writes the folder; exits with 1 if one fails."""
    from video_diffusion.cli.clip_run import warnings_as_lines
    from video_diffusion.comparison.clips import find_clips, findings, measure_clips, parse_folders
    from video_diffusion.comparison.design import read_rules
    from video_diffusion.web import counted

    alpha, margins = read_rules(assignments)
    folders = parse_folders(texts)
    clips, notes = find_clips(folders)
    if dry_run:
        for clip in clips:
            click.echo(str(clip.path))
        say(f"{counted(len(clips), 'clip')} to measure; {' '.join(notes)}")
        return
    meter = open_meter(flags.clip_model)
    flags.out.mkdir(parents=True, exist_ok=True)
    progress = Progress(flags.quiet, "clip")
    rows, failed = [], 0
    with warnings_as_lines():
        try:
            for done, (clip, row) in enumerate(measure_clips(clips, flags.out, meter), start=1):
                rows.append((clip, row))
                progress.step(done, len(clips))
                if row["status"] == "failed":
                    failed += 1
                    progress.clear()
                    warn(str(row["error"]))
        finally:
            progress.clear()
        words = [f"{label}={folder}" for label, folder in folders.items()]
        command = shlex.join(["video-diffusion", "compare", "--clips", *words, "-o", str(flags.out)])
        _finish(findings(rows, flags.out, notes, margins, alpha, command), flags)
    if failed:
        say(f"{failed} of {len(clips)} clips could not be measured")
        raise click.exceptions.Exit(CLIP_FAILED)
