"""`video-diffusion data check`: every clip of a folder decoded once, then a manifest to train on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from video_diffusion.cli.settings_flags import size_of
from video_diffusion.cli.terminal import Progress, say, warn

if TYPE_CHECKING:
    from video_diffusion.training.data.folder_check import FolderCheck

FORMATS = ("auto", "pairs", "metadata", "webvid", "openvid", "panda70m", "cogvideo")
MOST_SHOWN = 20  # reasons on the terminal; the files have all


@click.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--format", "wanted", type=click.Choice(FORMATS), default="auto", show_default=True,
    help="Where captions are: name.txt beside name.mp4, metadata.jsonl|csv|parquet with file_name and text, "
    "or the list of a published data set.",
)  # fmt: skip
@click.option(
    "--list", "list_file", type=click.Path(path_type=Path), metavar="FILE", help="The list, if not in FOLDER."
)
@click.option(
    "--num-frames", "--frames", type=click.IntRange(1, 4096), default=16, show_default=True,
    help="Of a training clip, for the count.",
)  # fmt: skip
@click.option("--fps", default="8", show_default=True, metavar="RATE", help="Of a training clip, likewise.")
@click.option("--size", "sizes", multiple=True, metavar="WxH", help="Of training clips; several are buckets.")
@click.option(
    "--windows", type=click.Choice(["one", "all"]), default="one", show_default=True,
    help="Training clips from a clip: one, or all that fit side by side.",
)  # fmt: skip
@click.option(
    "--too-short", type=click.Choice(["reject", "loop"]), default="reject", show_default=True,
    help="What training does with clips shorter than it needs.",
)  # fmt: skip
@click.option("--repeat-frames", is_flag=True, help="Training takes clips of a lower rate too.")
@click.option("--allow-upscaling", is_flag=True, help="Training takes clips smaller than --size too.")
@click.option(
    "--held-out", type=click.IntRange(0), metavar="N",
    help="Clips kept from training, to measure its loss on.  [default: a sixteenth, at most 16]",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(0, 512), help="Processes; the default is one per processor.")
@click.option("--allow-truncated", is_flag=True, help="Take videos that are cut off, as far as they go.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 if anything was rejected, or is of no use for training clips as asked for.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no list of rejects.")
def check(
    folder: Path, wanted: str, list_file: Path | None, num_frames: int, fps: str, sizes: tuple[str, ...],
    windows: str, too_short: str, repeat_frames: bool, allow_upscaling: bool, held_out: int | None,
    workers: int | None, allow_truncated: bool, strict: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Decode every clip in FOLDER once and write the manifest that training reads.

    FOLDER/manifest.jsonl lists the good clips with their true length, rate and size, FOLDER/rejects.jsonl the
    others with the reason, FOLDER/contact-sheet.png shows some of the good. Again, it decodes only what is
    new or changed. Nothing outside FOLDER is opened, and no address in a list.
    """
    from video_diffusion.cli.data_check_report import summarise, summary_lines
    from video_diffusion.generation_settings import parse_fps
    from video_diffusion.training.data.clip_plan import plan_clips
    from video_diffusion.training.data.clip_sources import find_source
    from video_diffusion.training.data.folder_check import FolderCheck
    from video_diffusion.training.data.held_out import held_out_ids
    from video_diffusion.training.data.probe_run import default_workers

    try:
        rate = parse_fps(fps)
    except ValueError as error:
        raise click.UsageError(f"--fps: {error} (given {fps!r})") from None
    assert rate is not None, "None comes of None"
    buckets = [size_of(size) for size in sizes] or None
    done = FolderCheck(folder, find_source(folder, wanted, list_file))
    _decode(done, default_workers() if workers is None else workers, allow_truncated, quiet)
    plan = plan_clips(
        done.entries,
        num_frames=num_frames,
        fps=rate,
        sizes=buckets,
        windows="all" if windows == "all" else "one",
        too_short="loop" if too_short == "loop" else "reject",
        repeat_frames=repeat_frames,
        allow_upscaling=allow_upscaling,
    )
    summary = summarise(done, plan, num_frames, rate, held_out_ids(plan, held_out))
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        for line in summary_lines(summary):
            click.echo(line)
    if not quiet:
        _say_why([(reject.path, reject.reason) for reject in done.rejects], "rejected", "rejects.jsonl")
        _say_why(
            [(one.entry.id, one.reason) for one in plan.unusable], "not trained on", "the summary's counts"
        )
    if not done.entries:
        why = (
            "the reasons are in rejects.jsonl"
            if done.rejects
            else "put name.mp4 and its caption name.txt into it"
        )
        raise click.ClickException(f"{folder}: no clip can be used; {why}")
    if not plan.clips:
        warn(f"no clip gives {num_frames} frames at {fps} fps; choose other --num-frames or --fps")
    if strict and (done.rejects or plan.unusable):
        counts = f"{len(done.rejects)} rejected, {len(plan.unusable)} of no use for such training clips"
        raise click.ClickException(f"{folder}: {counts}; --strict allows none")


def _decode(done: "FolderCheck", workers: int, allow_truncated: bool, quiet: bool) -> None:
    from video_diffusion.cli.data_check_report import save_contact_sheet

    progress = Progress(quiet, "file")
    try:
        for number, total in done.steps(workers, allow_truncated):
            progress.step(number, total)
        progress.clear()
        save_contact_sheet(done)
    except BaseException:
        progress.clear()
        say("the same command goes on where this one stopped")
        raise


def _say_why(reasons: list[tuple[str, str]], what: str, rest: str) -> None:
    for name, reason in reasons[:MOST_SHOWN]:
        say(f"{name}: {reason}", what, "yellow")
    if len(reasons) > MOST_SHOWN:
        say(f"{len(reasons) - MOST_SHOWN} more; see {rest}", what, "yellow")
