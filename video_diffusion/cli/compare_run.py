"""The run of `compare`: the checks of the machine, the clips with their progress, what is told at the end."""

import json
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.batch import Tally, number_of, shard_of, until_failure
from video_diffusion.cli.batch_plan import check_machine
from video_diffusion.cli.clip_run import warnings_as_lines
from video_diffusion.cli.compare import CompareFlags
from video_diffusion.cli.outputs import EncodingFlags
from video_diffusion.cli.terminal import CLIP_FAILED, MODEL, Progress, Terminated, printable, say, warn

if TYPE_CHECKING:
    from video_diffusion.comparison.alignment import PromptMeter
    from video_diffusion.comparison.design import Design
    from video_diffusion.comparison.summary import ComparisonSummary
    from video_diffusion.comparison.verdict import Findings
    from video_diffusion.jobs import Job


def run_design(design: "Design", flags: CompareFlags, *, dry_run: bool) -> None:
    """Makes the clips, compares them, writes the folder; exits with 1 if a clip failed."""
    from video_diffusion.comparison.report import CONFIG
    from video_diffusion.comparison.run import collect, make_clips, num_missing, plan, unique_jobs
    from video_diffusion.jobs import Pipelines, model_facts
    from video_diffusion.video import write_bytes
    from video_diffusion.web import counted

    folder, shard = flags.out, shard_of(flags.shard, quiet=flags.quiet)
    size = number_of("--batch-size", flags.batch_size or "1", has_auto=True)
    planned = list(plan(design, model_facts))
    jobs = unique_jobs(planned)
    for note in _checked(jobs, folder):
        warn(note)
    own = list(shard.pick(jobs))
    if dry_run:
        from video_diffusion.cli.batch_plan import show_plan

        show_plan(own, folder, as_json=flags.as_json, overwrite=flags.overwrite)
        return
    meter = open_meter(flags.clip_model)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG, design.to_yaml().encode())
    tally = Tally(len(own))
    with warnings_as_lines():
        outcomes = make_clips(
            own, folder, Pipelines(), meter,
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
        missing = num_missing(planned, found)
        if missing:
            left = counted(missing, "clip")
            say(f"{left} left to other processes; once all are made, the same command compares them")
        elif any(arm.num_clips for arm in found.arms):
            finish(found, flags)
    tally.end()


def finish(found: "Findings", flags: CompareFlags) -> None:
    """Compares, writes the folder, and tells what was found on stdout."""
    from video_diffusion.comparison.report import with_earlier_looks, write_folder
    from video_diffusion.comparison.verdict import summarise

    summary = summarise(with_earlier_looks(found, flags.out))
    written = write_folder(summary, flags.out)
    if flags.as_json:
        click.echo(json.dumps(_answer(summary, written), ensure_ascii=False))
        return
    for text in summary.warnings:
        warn(text)
    click.echo("\n".join([*_lines(summary), str(written[0])]))


def open_meter(clip_model: str | None) -> "PromptMeter":
    """Prompt alignment, with CLIP if its weights are given."""
    from video_diffusion.comparison.alignment import PromptMeter

    if clip_model is None:
        return PromptMeter()
    from video_diffusion.metrics.learned.weights import MetricWeightsError

    try:
        return PromptMeter(clip_model)
    except MetricWeightsError as error:
        raise _WeightsRefused(str(error)) from None


class _WeightsRefused(click.ClickException):
    exit_code = MODEL


def _checked(jobs: Sequence["Job"], folder: Path) -> list[str]:
    """Models, devices, sizes and disk, before anything is loaded; notes for the user."""
    from video_diffusion.jobs import JobSummary

    summary = JobSummary(count=len(jobs))
    for job in jobs:
        summary.add(job.settings, job.where)
    return check_machine(summary, folder, EncodingFlags(), ".mp4")


def _lines(summary: "ComparisonSummary") -> list[str]:
    """The sentence, then the verdicts in two columns if there are several."""
    lines = [printable(summary.sentence)]
    if len(summary.verdicts) > 1:
        lines += [
            f"  {printable(each.arm)}: {each.words}: {printable(each.sentence)}" for each in summary.verdicts
        ]
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
        "warnings": list(summary.warnings),
        "power": summary.power,
        "num_clips": sum(arm.num_clips for arm in summary.arms),
        "num_failed": sum(arm.num_failed for arm in summary.arms),
        "files": [str(path) for path in written],
    }


def _difference(found: Any) -> dict[str, Any]:
    span = found.span
    return {
        "difference": None if span is None else span.estimate,
        "low": None if span is None else span.low,
        "high": None if span is None else span.high,
        "p": found.adjusted_p,
        "num_pairs": found.num_pairs,
    }


# `compare --clips A=dirA B=dirB`: clips of any tool, measured as they are and held against each other.


def run_clips(
    texts: Sequence[str], assignments: Sequence[str], flags: CompareFlags, *, dry_run: bool
) -> None:
    """Measures every clip that has a partner, compares, writes the folder; exits with 1 if one fails."""
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
        finish(findings(rows, flags.out, notes, margins, alpha, command), flags)
    if failed:
        say(f"{failed} of {len(clips)} clips could not be measured")
        raise click.exceptions.Exit(CLIP_FAILED)
