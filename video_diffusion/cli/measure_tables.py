"""Measured clips as text: a table, a row per clip, CSV, JSON, and the difference of two clips."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from video_diffusion.cli.measure_files import MeasuredClip
from video_diffusion.cli.terminal import printable
from video_diffusion.metrics import ALL_METRICS
from video_diffusion.metrics.report import SCHEMA_VERSION, ConsistencyReport, format_value

HEADLINE = ("flicker", "motion", "sharpness", "mean_luma", "coverage", "drift", "raw_flicker")
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
    standing = report.values["motion"].status == "static" or "flicker" not in report.values
    status = report.values["motion" if standing else "flicker"].status
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
