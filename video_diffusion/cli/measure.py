"""`video-diffusion measure`: how well the frames of clips hold together, for any video file."""

import glob
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import click

from video_diffusion.cli.outputs import check_place
from video_diffusion.cli.terminal import CLIP_FAILED


def _words(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _rate(context: click.Context, parameter: click.Parameter, text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise click.BadParameter(f"must be a number above 0, such as 8 or 24000/1001 (given {text!r})")
    return rate


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    words = _words(context, parameter, text) or ()
    if not all(word.isascii() and word.isdigit() for word in words):
        raise click.BadParameter(f"must be frame numbers such as 8,16,24 (given {text!r})")
    return tuple(sorted({int(word) for word in words}))


def _crop(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    words = text.split(",")
    if len(words) != 4 or not all(word.isascii() and word.isdigit() for word in words):
        raise click.BadParameter(f"must be X,Y,WIDTH,HEIGHT in pixels, such as 0,0,256,256 (given {text!r})")
    x, y, width, height = map(int, words)
    if not (width and height):
        raise click.BadParameter(f"must be at least one pixel wide and high (given {text!r})")
    return x, y, width, height


def check_vbench(folder: Path) -> None:
    """Refuse a folder that holds something, or whose parent is not there, before anything is measured."""
    is_new = not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))
    if not is_new or not folder.name:
        raise click.UsageError(f"--vbench: {folder} is there already; give a new or an empty folder")
    check_place(folder, "--vbench", overwrite=True)


@click.command()
@click.argument("clips", nargs=-1, required=True, metavar="CLIP...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per clip and line on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="One row per clip on stdout.")
@click.option("--series", is_flag=True, help="With --json: the values of every frame too.")
@click.option("--plot", metavar="FILE", help="Per-frame curves over the frames of one clip (.svg, .png).")
@click.option(
    "--worst", type=click.IntRange(1, 50), metavar="N", help="Draw the N worst triples of one clip."
)
@click.option(
    "--worst-by", type=click.Choice(["flicker", "morph"]), default="flicker", help="What --worst goes by."
)
@click.option("--sheet", metavar="FILE", help="Where --worst draws to; CLIP-worst.png here by default.")
@click.option("--against", metavar="OTHER", help="Differences to another clip of equal length.")
@click.option(
    "--set", "reference", metavar="CLIPS", help="Do all CLIPs move like these? A folder or pattern."
)
@click.option("--vbench", metavar="FOLDER", help="Lay the CLIPs out there as VBench's custom input.")
@click.option("--jobs", type=click.IntRange(1), default=1, metavar="N", help="Processes over many clips.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Over pairs of frames; all cores.")
@click.option("--crop", metavar="X,Y,W,H", callback=_crop, help="Only this part, as of a grid of clips.")
@click.option("--tone-map", is_flag=True, help="Show HDR (PQ, HLG) as SDR instead of refusing it.")
@click.option("--one-shot", is_flag=True, help="The clip has no cut: its worst jump is scored.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Only N evenly spaced triples of frames.")
@click.option("--metrics", metavar="NAMES", callback=_words, help="Only these, such as flicker,drift.")
@click.option("--flow", type=click.Choice(["dis", "farneback"]), default="dis", help="Optical flow.")
@click.option("--fps", metavar="RATE", callback=_rate, help="Of folders of images; 8 by default.")
@click.option("--window-starts", metavar="NUMBERS", callback=_numbers, help="Where context windows start.")
@click.option(
    "--clip-model", metavar="FOLDER", help="Local CLIP: consistency, and alignment with the prompt."
)
@click.option("--prompt", metavar="TEXT", help="For alignment; by default that of the clip's record.")
@click.option("--dino-model", metavar="FOLDER", help="Local DINO or DINOv2: subject consistency.")
@click.option("--lpips-weights", metavar="FILE", help="Local AlexNet: LPIPS along the flow (package lpips).")
@click.option("--raft-weights", metavar="FILE", help="Local RAFT instead of --flow (package torchvision).")
@click.option("--allow-truncated", is_flag=True, help="Measure what a damaged file still gives.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def measure(
    clips: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
    series: bool,
    plot: str | None,
    worst: int | None,
    worst_by: Literal["flicker", "morph"],
    sheet: str | None,
    against: str | None,
    reference: str | None,
    vbench: str | None,
    jobs: int,
    threads: int | None,
    crop: tuple[int, int, int, int] | None,
    tone_map: bool,
    one_shot: bool,
    sample: int | None,
    metrics: tuple[str, ...] | None,
    flow: str,
    fps: Fraction | None,
    window_starts: tuple[int, ...],
    clip_model: str | None,
    prompt: str | None,
    dino_model: str | None,
    lpips_weights: str | None,
    raft_weights: str | None,
    allow_truncated: bool,
    quiet: bool,
) -> None:
    """Measure how well the frames of each CLIP hold together.

    CLIP is a video file, an animation, a folder of images, or a quoted pattern such as 'out/*.mp4'. A clip
    that cannot be measured is named on stderr; the others are measured, and the exit code is 1.
    """
    paths = _expand(clips)
    if (plot or worst or against) and len(paths) != 1:
        raise click.UsageError(f"--plot, --worst and --against are for one CLIP (given {len(paths)})")
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; give one of them")
    if series and not as_json:
        raise click.UsageError("--series belongs to --json; give both")
    if prompt is not None and not clip_model:
        raise click.UsageError("--prompt is for alignment, which needs --clip-model; give both")
    if sheet and not worst:
        raise click.UsageError("--sheet is where --worst draws to; give --worst N as well")
    if against and as_csv:
        raise click.UsageError("--against has a table and --json, no --csv")
    if reference and (against or as_csv):
        raise click.UsageError("--set has a line of text and --json; leave --against and --csv out")
    references = _expand([f"{reference}/*" if Path(reference).is_dir() else reference]) if reference else []
    if vbench is not None:
        check_vbench(Path(vbench))
    plot_to = _picture_path(plot, "--plot")
    sheet_to = _picture_path(sheet or (f"{Path(paths[0]).stem}-worst.png" if worst else None), "--sheet")
    from video_diffusion.cli.measure_files import Request, Weights
    from video_diffusion.cli.measure_output import Output, run
    from video_diffusion.metrics import choose_metrics

    choose_metrics(metrics)
    request = Request(
        motion_features=bool(references),
        metrics=(*metrics, "flicker", "morph") if metrics and (plot or worst) else metrics,
        flow=flow,
        fps=fps,
        allow_truncated=allow_truncated,
        sample=sample,
        window_starts=window_starts,
        worst=worst or 0,
        worst_by=worst_by,
        thumbnails=plot is not None,
        crop=crop,
        tone_map=tone_map,
        one_shot=one_shot,
        threads=threads,
        keep_series=bool(series or plot or worst or against),
        weights=Weights(clip_model, prompt, dino_model, lpips_weights, raft_weights),
    )
    form: Literal["json", "csv", "table"] = "json" if as_json else "csv" if as_csv else "table"
    output = Output(form, series, plot_to, sheet_to, Path(vbench) if vbench else None, quiet)
    failed = run(paths, against, references, request, output, jobs)
    if failed:
        raise click.exceptions.Exit(CLIP_FAILED)


def _expand(clips: Sequence[str]) -> list[str]:
    """Paths as given; a pattern that is not itself a file becomes the files that fit it, in order."""
    paths: list[str] = []
    for clip in clips:
        found = sorted(glob.glob(clip)) if glob.has_magic(clip) and not Path(clip).exists() else []  # noqa: PTH207 - Path.glob knows no absolute patterns
        paths += found or [clip]
    return paths


def _picture_path(text: str | None, flag: str) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() not in (".svg", ".png"):
        raise click.UsageError(f"{flag}: must end in .svg or .png (given {text!r})")
    check_place(path, flag, overwrite=True)
    return path
