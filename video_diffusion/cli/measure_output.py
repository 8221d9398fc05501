"""The run of `measure`: every clip in turn or in processes, printed as it comes and drawn at the end."""

import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import cv2
import numpy as np

from video_diffusion.cli.measure_files import MeasuredClip, Request, Weights, measure_file
from video_diffusion.cli.terminal import MODEL, Progress, printable, say
from video_diffusion.metrics import ALL_METRICS, features_of, set_distance
from video_diffusion.metrics.report import SCHEMA_VERSION, ConsistencyReport, format_value
from video_diffusion.video import atomic_path
from video_diffusion.video.files import interrupts_held

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = ("flicker", "morph", "motion", "sharpness", "mean_luma", "coverage", "drift", "raw_flicker")
"""Columns of the table of many clips: flicker never without motion, sharpness and mean luma beside it."""

Values = Mapping[str, float | None]
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def difference(values: Values, reference: Values) -> dict[str, float | None]:
    """Value minus reference for each name of `values`; None where either is missing."""
    pairs = {name: (value, reference.get(name)) for name, value in values.items()}
    return {name: None if a is None or b is None else a - b for name, (a, b) in pairs.items()}


def values_of(report: ConsistencyReport) -> dict[str, float | None]:
    """Metric name → value."""
    return {name: measured.value for name, measured in report.values.items()}


def table(clip: MeasuredClip, report: ConsistencyReport) -> str:
    """All measures of one clip, and what encoding changed if its record tells."""
    lines = [printable(clip.path), report.table()]
    if clip.sampled is not None:
        lines.append(f"sampled: {clip.sampled} evenly spaced triples, not every frame")
    if clip.before_encoding:
        changes = difference(values_of(report), clip.before_encoding)
        told = [f"{name} {value:+.3g}" for name, value in changes.items() if value is not None]
        lines.append(f"after minus before encoding: {', '.join(told)}")
    return "\n".join(lines)


def header() -> str:
    """Names of the columns of `row`."""
    return " ".join(f"{name:>11}" for name in HEADLINE) + f"  {'status':<12} clip"


def row(clip: MeasuredClip, report: ConsistencyReport) -> str:
    """One clip on one line; the status is that of flicker, or of motion when the clip does not move."""
    cells = [report.values[name].value if name in report.values else None for name in HEADLINE]
    told = {name: measured.status for name, measured in report.values.items()}
    standing = told.get("motion") == "static" or "flicker" not in told
    status = told.get("motion" if standing else "flicker") or next(iter(told.values()))
    sampled = "" if clip.sampled is None else f" ({clip.sampled} triples sampled)"
    return (
        " ".join(f"{format_value(cell):>11}" for cell in cells)
        + f"  {status:<12} {printable(clip.path)}{sampled}"
    )


def csv_header() -> str:
    """First line of the CSV."""
    columns = ["path", "num_frames", "fps", "width", "height", "sampled_triples", "error"]
    return _csv_line(
        [*columns, *(f"{metric.name}{end}" for metric in ALL_METRICS for end in ("", "_status"))]
    )


def csv_row(clip: MeasuredClip) -> str:
    """One clip as a line of CSV; values that are missing are empty."""
    if clip.report is None:
        return _csv_line([clip.path, *[None] * 5, clip.error, *[None] * (2 * len(ALL_METRICS))])
    report = clip.report
    cells: list[Any] = [
        clip.path, report.num_frames, float(report.fps), report.width, report.height, clip.sampled, None,
    ]  # fmt: skip
    for metric in ALL_METRICS:
        measured = report.values.get(metric.name)
        cells += [None, None] if measured is None else [measured.value, measured.status]
    return _csv_line(cells)


def _csv_line(cells: list[Any]) -> str:
    # a spreadsheet would compute a name such as "=1+1.mp4"; the JSON lines hold it as it is
    inert = [
        f"'{cell}" if isinstance(cell, str) and cell.lstrip(" ").startswith(FORMULA) else cell
        for cell in cells
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(inert)  # without one, Python 3.11 quotes no line break
    return text.getvalue().removesuffix("\n")


def json_line(clip: MeasuredClip, series: bool) -> str:
    """One clip as one line of JSON: its report, or its path and error."""
    if clip.report is None:
        return json.dumps({"schema_version": SCHEMA_VERSION, "path": clip.path, "error": clip.error})
    report = clip.report.to_json(series)
    facts: dict[str, Any] = {"schema_version": report.pop("schema_version"), "path": clip.path, **report}
    if clip.sampled is not None:
        facts["sampled_triples"] = clip.sampled
    if clip.notes:
        facts["notes"] = list(clip.notes)
    if clip.before_encoding:
        facts["before_encoding"] = clip.before_encoding
        facts["after_minus_before_encoding"] = difference(values_of(clip.report), clip.before_encoding)
    return json.dumps(facts, allow_nan=False)


def difference_table(
    clip: MeasuredClip, other: MeasuredClip, report: ConsistencyReport, reference: ConsistencyReport
) -> str:
    """Two clips of equal length side by side; `frames` counts those where the first is the larger."""
    gained = difference(values_of(report), values_of(reference))
    lines = [f"this: {printable(clip.path)}", f"that: {printable(other.path)}"]
    lines.append(
        f"{'':18}{'this':>10}{'that':>10}{'difference':>12}  {'unit':<18}frames where this is larger"
    )
    for name, measured in report.values.items():
        cells = [measured.value, reference.values[name].value]
        numbers = "".join(f"{format_value(cell):>10}" for cell in cells) + f"{_signed(gained[name]):>12}"
        per_frame = series_difference(report, reference, name)
        larger = f"{sum(value > 0 for value in per_frame)} of {len(per_frame)}" if per_frame else ""
        lines.append(f"{name:<18}{numbers}  {measured.unit:<18}{larger}".rstrip())
    for which, each in (("this", clip), ("that", other)):
        if each.before_encoding and each.report is not None:
            changes = difference(values_of(each.report), each.before_encoding)
            told = [f"{name} {value:+.3g}" for name, value in changes.items() if value is not None]
            lines.append(f"{which}, after minus before encoding: {', '.join(told)}")
    return "\n".join(lines)


def series_difference(report: ConsistencyReport, reference: ConsistencyReport, name: str) -> list[float]:
    """Difference of two series at the frames where both have a value."""
    pairs = zip(report.values[name].series, reference.values[name].series, strict=False)
    return [a - b for a, b in pairs if a is not None and b is not None]


def difference_json(
    clip: MeasuredClip, other: MeasuredClip, report: ConsistencyReport, reference: ConsistencyReport
) -> str:
    """The difference of two clips as one line of JSON."""
    gained = difference(values_of(report), values_of(reference))
    metrics = {
        name: {
            "value": measured.value,
            "other": reference.values[name].value,
            "difference": gained[name],
            "unit": measured.unit,
            "status": measured.status,
            "other_status": reference.values[name].status,
        }
        for name, measured in report.values.items()
    }
    facts: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "path": clip.path, "against": other.path}
    facts |= {"num_frames": report.num_frames, "fps": float(report.fps), "metrics": metrics}
    for key, each in (("", clip), ("other_", other)):
        if each.before_encoding and each.report is not None:
            changes = difference(values_of(each.report), each.before_encoding)
            facts[f"{key}after_minus_before_encoding"] = changes
    return json.dumps(facts, allow_nan=False)


def _signed(value: float | None) -> str:
    return "—" if value is None else f"{value:+.3g}"


CURVES = ("flicker", "morph", "luma_flicker", "warp_psnr", "motion", "flow_jitter", "mean_luma")
FROM_ZERO = {"flicker": 1.0, "morph": 0.25, "luma_flicker": 1.0, "motion": 1.0, "flow_jitter": 1.0}
"""Their axis starts at 0 and reaches so far at least, so that next to nothing looks like it."""
INK, FAINT, ACCENT = "#1d2433", "#8b93a3", "#c8445a"
MOST_POINTS = 2000
MARKED = 3
NUM_THUMBNAILS = 12


def _figure(width: float | int, height: float | int) -> "Figure":
    """An empty figure that needs no screen."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "video-diffusion"}):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), metadata=None)


def _thinned(numbers: Sequence[int], values: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points: of each stretch of frames the largest value, so that no peak is lost."""
    frames = np.array(numbers, dtype=np.float64)
    heights = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    stretch = -(-len(frames) // MOST_POINTS)
    if stretch <= 1:
        return frames, heights
    padded = np.pad(heights, (0, -len(heights) % stretch), constant_values=np.nan).reshape(-1, stretch)
    with np.errstate(invalid="ignore"):
        peaks = np.where(np.isnan(padded).all(axis=1), np.nan, np.fmax.reduce(padded, axis=1))
    return frames[::stretch], peaks


def worst_frames(report: ConsistencyReport, count: int = MARKED) -> list[int]:
    """Numbers of the frames with the largest flicker, worst first; none when nothing flickers."""
    entries = zip(report.frame_numbers, report.values["flicker"].series, strict=False)  # too short: no series
    scored = [(value, index) for index, value in entries if value]
    return [index for _, index in sorted(scored, reverse=True)[:count]]


def draw_curves(clip: MeasuredClip, path: Path) -> None:
    """Write the per-frame curves of a clip with its frames underneath, the worst ones marked."""
    report = clip.report
    assert report is not None
    names = [name for name in CURVES if name in report.values and any(report.values[name].series)]
    figure = _figure(9, 1.15 * len(names) + 1.7)
    rows = figure.subplots(len(names) + 1, 1, height_ratios=[1] * len(names) + [1.1], squeeze=False)[:, 0]
    marked = worst_frames(report)
    last = max(report.num_frames - 1, 1)
    for axes, name in zip(rows, names, strict=False):
        measured = report.values[name]
        numbers, series = report.frame_numbers, measured.series
        if report.held_frames:  # they have no values: the curve goes on from one distinct frame to the next
            known = [place for place, value in enumerate(series) if value is not None]
            numbers, series = [numbers[place] for place in known], tuple(series[place] for place in known)
        frames, heights = _thinned(numbers, series)
        axes.plot(frames, heights, color=INK, linewidth=1.2, marker="." if len(frames) <= 64 else None)
        for index in marked:
            axes.axvline(index, color=ACCENT, linewidth=0.8, alpha=0.6)
        axes.set_title(
            f"{name}  {format_value(measured.value)} {measured.unit}, {measured.status}",
            loc="left",
            fontsize=8,
        )
        axes.tick_params(labelsize=7, colors=FAINT)
        if name in FROM_ZERO:
            axes.set_ylim(0, max(FROM_ZERO[name], 1.1 * float(np.nanmax(heights))))
        axes.set_xlim(-0.02 * last, 1.02 * last)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_frames(rows[-1], clip.thumbnails, marked)
    figure.suptitle(f"{Path(clip.path).name}: {report.num_frames} frames", fontsize=10, color=INK)
    _save(figure, path)


def _draw_frames(axes: Any, thumbnails: dict[int, np.ndarray], marked: Sequence[int]) -> None:
    chosen = sorted(thumbnails)
    chosen = [
        chosen[place]
        for place in np.linspace(0, len(chosen) - 1, min(len(chosen), NUM_THUMBNAILS)).astype(int)
    ]
    gap = ((0, 0), (2, 2), (0, 0))
    strip = np.concatenate([np.pad(thumbnails[index], gap, constant_values=255) for index in chosen], axis=1)
    axes.imshow(strip)
    wide = strip.shape[1] / len(chosen)
    axes.set_xticks([wide * (place + 0.5) for place in range(len(chosen))], [str(index) for index in chosen])
    axes.set_yticks([])
    axes.tick_params(labelsize=7, colors=FAINT, length=0)
    worst = ", ".join(str(index) for index in marked) or "none"
    axes.set_xlabel(f"frames; most flicker at {worst}", fontsize=8, color=ACCENT if marked else FAINT)
    axes.spines[:].set_visible(False)


def draw_worst(clip: MeasuredClip, path: Path) -> None:
    """Write a sheet of the worst triples: the frames, what motion does not explain, and where it morphs."""
    assert clip.worst
    height, width = clip.worst[0].residual.shape
    figure = _figure(12, 0.5 + len(clip.worst) * (2.3 * height / width + 0.25))
    cells = figure.subplots(len(clip.worst), 5, squeeze=False)
    maps = [(triple.residual, triple.morph) for triple in clip.worst]
    ceilings = [max(least, *(float(np.percentile(pair[place], 99)) for pair in maps))
                for place, least in enumerate((1.0, 0.25))]  # fmt: skip
    for row, triple in zip(cells, clip.worst, strict=True):
        for axes, number, pixels in zip(row, triple.numbers, triple.frames, strict=False):
            axes.imshow(pixels)
            axes.set_title(f"frame {number}", fontsize=8, color=INK)
        heats = (
            (triple.residual, f"flicker {format_value(triple.flicker)} levels"),
            (triple.morph, f"morph {format_value(triple.morph_level)} px"),
        )
        for axes, (heat, title), ceiling in zip(row[3:], heats, ceilings, strict=True):
            image = axes.imshow(heat, cmap="inferno", vmin=0, vmax=ceiling, extent=(0, width, height, 0))
            axes.set_title(title, fontsize=8, color=ACCENT)
            if triple is clip.worst[-1]:
                bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.8)
                bar.ax.tick_params(labelsize=7)
        for axes in row:
            axes.set_axis_off()
    figure.suptitle(f"{Path(clip.path).name}: the worst triples of frames", fontsize=10, color=INK)
    _save(figure, path)


@dataclass(frozen=True)
class Output:
    """What becomes of the measures.

    Attributes:
        form: on stdout.
        series: whether JSON has the values of every frame.
        plot_to: where the curves of the clip go, None for nowhere.
        sheet_to: where its worst triples go.
        vbench_to: where the clips are laid out as VBench's custom input.
        quiet: nothing on stderr but errors.
    """

    form: Literal["table", "json", "csv"] = "table"
    series: bool = False
    plot_to: Path | None = None
    sheet_to: Path | None = None
    vbench_to: Path | None = None
    quiet: bool = False


def run(
    paths: Sequence[str],
    against: str | None,
    references: Sequence[str],
    request: Request,
    output: Output,
    jobs: int,
) -> int:
    """Measure, print and draw; return how many clips could not be measured."""
    _load_weights(request)
    several = len(paths) > 1
    if output.form == "csv":
        click.echo(csv_header())
    elif output.form == "table" and several:
        click.echo(header())
    measured: list[MeasuredClip] = []
    every = [*paths, *([against] if against else []), *references]
    for clip in _measure_all(every, request, jobs, output.quiet):
        measured.append(clip)
        if clip.error:
            say(clip.error, "error", "red")
        if not against and len(measured) <= len(paths):
            _print_clip(clip, output, several)
        for note in () if output.quiet else clip.notes:
            say(f"{clip.path}: {note}", "note")
    failed = sum(1 for clip in measured if clip.error)
    if against and not failed:
        _print_difference(measured[0], measured[1], output)
    if output.vbench_to is not None:
        _export_to_vbench([clip for clip in measured[: len(paths)] if not clip.error], output.vbench_to)
    if references:
        _print_set_distance(measured[: len(paths)], measured[len(paths) :], output)
    _draw(measured[0], output)
    if failed and len(measured) > 1:
        say(f"{failed} of {len(measured)} clips could not be measured")
    return failed


def _load_weights(request: Request) -> None:
    """Find out before any clip is read that weights cannot be used: exit code 3, as for every model."""
    if request.weights == Weights():
        return
    from video_diffusion.metrics.learned.weights import MetricWeightsError

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
        clips = _measure_apart(paths, replace(request, threads=request.threads or 1), min(jobs, len(paths)))
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
        with interrupts_held():
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
                with interrupts_held():
                    again = alone.submit(measure_file, path, request)
                return again.result()
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


def _export_to_vbench(clips: Sequence[MeasuredClip], folder: Path) -> None:
    """Copy clips as `PROMPT-INDEX.mp4`, by which VBench knows the prompt, and list the prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    prompts: dict[str, str] = {}
    for clip in clips:
        source = Path(clip.path)
        if source.suffix.lower() != ".mp4":
            say(f"{clip.path}: VBench reads MP4 only; convert it first", "error", "red")
            continue
        prompt = clip.prompt or source.stem
        name = re.sub(r'[/\\:*?"<>|\x00-\x1f]', " ", prompt)[:200].strip() or "clip"
        target = folder / f"{name}-{counts[name]}.mp4"
        counts[name] += 1
        with atomic_path(target) as part:
            shutil.copyfile(source, part)
        prompts[str(target.resolve())] = prompt
    with atomic_path(folder / "prompts.json") as part:
        part.write_text(json.dumps(prompts, ensure_ascii=False, indent=1), encoding="utf-8")
    say(f"{len(prompts)} clips and prompts.json are in {folder}, for VBench's --mode custom_input")


def _print_set_distance(
    clips: Sequence[MeasuredClip], references: Sequence[MeasuredClip], output: Output
) -> None:
    """Whether the clips move like the references; paired where both have the same file names."""
    found = [{Path(clip.path).stem: features_of(clip.report) for clip in side if clip.report is not None}
             for side in (clips, references)]  # fmt: skip
    sides = [{name: each for name, each in side.items() if each is not None} for side in found]
    paired = len(sides[0]) == len(clips) and sorted(sides[0]) == sorted(sides[1])
    ours, theirs = (
        np.array([each for _, each in sorted(side.items())]).reshape(len(side), -1) for side in sides
    )
    try:
        distance = set_distance(ours, theirs, paired=paired)
    except ValueError as error:
        raise click.UsageError(f"--set: {error}") from None
    if output.form == "json":
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "set_distance": asdict(distance)}))
        return
    between = "" if distance.paired is None else f"; clips of the same name are {distance.paired:.2f} apart"
    click.echo(
        f"motion of {distance.num_clips[0]} clips against {distance.num_clips[1]}: distance "
        f"{distance.distance:.3f} [{distance.low:.3f}, {distance.high:.3f}], p {distance.p:.2g}{between}"
    )


def _draw(clip: MeasuredClip, output: Output) -> None:
    if clip.report is None or (output.plot_to is None and output.sheet_to is None):
        return
    from video_diffusion.cli.measure_output import draw_curves, draw_worst

    if output.plot_to is not None:
        draw_curves(clip, output.plot_to)
    if output.sheet_to is not None and clip.worst:
        draw_worst(clip, output.sheet_to)
        if not output.quiet:
            say(f"the worst triples are in {output.sheet_to}")
    elif output.sheet_to is not None:
        say(f"{clip.path}: has no triple of frames to draw", "note")
