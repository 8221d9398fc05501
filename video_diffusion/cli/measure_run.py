"""The run of `measure`: every clip in turn or in processes, printed as it comes, drawn at the end."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import click
import cv2

from video_diffusion.cli.failures import MODEL
from video_diffusion.cli.measure_files import MeasuredClip, Request, measure_file
from video_diffusion.cli.measure_tables import (
    csv_header,
    csv_row,
    difference_json,
    difference_table,
    header,
    json_line,
    row,
    table,
)
from video_diffusion.cli.measure_weights import Weights
from video_diffusion.cli.terminal import Progress, say


@dataclass(frozen=True)
class Output:
    """What becomes of the measures.

    Attributes:
        form: on stdout.
        series: whether JSON has the values of every frame.
        plot_to: where the curves of the clip go, None for nowhere.
        sheet_to: where its worst triples go.
        quiet: nothing on stderr but errors.
    """

    form: Literal["table", "json", "csv"] = "table"
    series: bool = False
    plot_to: Path | None = None
    sheet_to: Path | None = None
    quiet: bool = False


def run(paths: Sequence[str], against: str | None, request: Request, output: Output, jobs: int) -> int:
    """Measure, print and draw; return how many clips could not be measured.

    Raises:
        click.UsageError: `against` has another length.
        OSError: a picture cannot be written.
    """
    _load_weights(request)
    several = len(paths) > 1
    if output.form == "csv":
        click.echo(csv_header())
    elif output.form == "table" and several:
        click.echo(header())
    measured = []
    for clip in _measure_all([*paths, against] if against else paths, request, jobs, output.quiet):
        measured.append(clip)
        if clip.error:
            say(clip.error, "error", "red")
        if not against:
            _print_clip(clip, output, several)
        for note in () if output.quiet else clip.notes:
            say(f"{clip.path}: {note}", "note")
    failed = sum(1 for clip in measured if clip.error)
    if against and not failed:
        _print_difference(measured[0], measured[1], output)
    _draw(measured[0], output)
    if failed and len(measured) > 1:
        say(f"{failed} of {len(measured)} clips could not be measured")
    return failed


def _load_weights(request: Request) -> None:
    """Find out before any clip is read that weights cannot be used: exit code 3, as for every model."""
    if request.weights == Weights():
        return
    from video_diffusion.metrics.learned.local_weights import MetricWeightsError

    try:
        request.weights.metrics()
        request.weights.flow(request.flow)
    except MetricWeightsError as error:
        raise _WeightsRefused(str(error)) from None


class _WeightsRefused(click.ClickException):
    exit_code = MODEL


def _measure_all(paths: Sequence[str], request: Request, jobs: int, quiet: bool) -> Iterator[MeasuredClip]:
    """Clips in order, measured here or in `jobs` processes, with a progress bar on a terminal."""
    several = len(paths) > 1
    progress = Progress(quiet, "clip" if several else "frame")
    if jobs > 1 and several:
        clips = _measure_apart(paths, request, min(jobs, len(paths)))
    else:
        on_frame = None if several else progress.step
        clips = (measure_file(path, request, on_frame) for path in paths)
    try:
        for done, clip in enumerate(clips, start=1):
            progress.clear()
            yield clip
            if several and done < len(paths):
                progress.step(done, len(paths))
    finally:
        progress.clear()


def _measure_apart(paths: Sequence[str], request: Request, jobs: int) -> Iterator[MeasuredClip]:
    """Measure in processes; a clip whose process dies is tried once more alone, then given up."""
    with _pool(jobs) as pool:
        futures = [pool.submit(measure_file, path, request) for path in paths]
        try:
            for path, future in zip(paths, futures, strict=True):
                yield _result(path, future, request)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _result(path: str, future: "Future[MeasuredClip]", request: Request) -> MeasuredClip:
    try:
        return future.result()
    except BrokenProcessPool:  # one process died and took the whole pool with it
        with _pool(1) as alone:
            try:
                return alone.submit(measure_file, path, request).result()
            except BrokenProcessPool:
                return MeasuredClip(
                    path, error=f"{path}: the process that measured it died; it may lack memory"
                )


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Fresh processes of one thread each, so that `jobs` is the number of busy cores."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))


def _print_clip(clip: MeasuredClip, output: Output, several: bool) -> None:
    if output.form == "json":
        click.echo(json_line(clip, output.series))
    elif output.form == "csv":
        click.echo(csv_row(clip))
    elif clip.report is not None:
        click.echo(row(clip, clip.report) if several else table(clip, clip.report))


def _print_difference(clip: MeasuredClip, other: MeasuredClip, output: Output) -> None:
    assert clip.report is not None
    assert other.report is not None
    lengths = clip.report.num_frames, other.report.num_frames
    if lengths[0] != lengths[1]:
        found = f"{clip.path} has {lengths[0]} frames and {other.path} {lengths[1]}"
        raise click.UsageError(f"--against: {found}; it compares clips of equal length")
    show = difference_json if output.form == "json" else difference_table
    click.echo(show(clip, other, clip.report, other.report))


def _draw(clip: MeasuredClip, output: Output) -> None:
    if clip.report is None or (output.plot_to is None and output.sheet_to is None):
        return
    from video_diffusion.cli.measure_pictures import draw_curves, draw_worst

    if output.plot_to is not None:
        draw_curves(clip, output.plot_to)
    if output.sheet_to is not None and clip.worst:
        draw_worst(clip, output.sheet_to)
        if not output.quiet:
            say(f"the worst triples are in {output.sheet_to}")
    elif output.sheet_to is not None:
        say(f"{clip.path}: has no triple of frames to draw", "note")
