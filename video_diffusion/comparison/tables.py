"""A comparison as text: Markdown for people, CSV (and Parquet) for programs."""

import csv
import importlib
import importlib.util
import io
from pathlib import Path

from video_diffusion.comparison.differences import HEADLINE
from video_diffusion.comparison.summary import ComparisonSummary, Difference, MetricSummary, Span

COLUMNS = ("arm", "prompt", "seed", "metric", "value", "unit", "status", "path")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def markdown(summary: ComparisonSummary) -> str:
    """The verdicts, a table of the headline and the guards, then one of the rest, warnings and notes."""
    lines = [f"# {_inline(summary.title or 'Comparison')}", "", f"**{_inline(summary.sentence)}**", ""]
    lines += [f"- Warning: {_inline(text)}" for text in summary.warnings]
    lines += [""] if summary.warnings else []
    if summary.verdicts:
        lines += ["| setting | verdict | why |", "|---|---|---|"]
        lines += [
            f"| {_cell(each.arm)} | {_cell(each.words)} | {_cell(each.sentence)} |"
            for each in summary.verdicts
        ]
        lines.append("")
    for title, roles in (
        ("Flicker and what it must not cost", {"headline", "guard"}),
        ("All else", {"other"}),
    ):
        metrics = [metric for metric in summary.metrics if metric.role in roles]
        if metrics:
            lines += [f"## {title}", "", *_table(summary, metrics), ""]
    lines += ["## How this was computed", "", *(f"- {_inline(note)}" for note in summary.notes)]
    lines += [f"- {_inline(summary.power)}"] if summary.power else []
    lines += [f"- Baseline: `{_code(summary.baseline)}`. Made again by `{_code(summary.command)}`.", ""]
    return "\n".join(lines)


def table_csv(summary: ComparisonSummary) -> str:
    """One row for each value of each clip, failed clips with an empty value.

    A cell that a spreadsheet would take for a formula begins with an apostrophe; `summary.json` is exact.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table_rows(summary):
        writer.writerow([_neutral(cell) for cell in row])
    return text.getvalue()


def table_rows(summary: ComparisonSummary) -> list[tuple[str | int | float | None, ...]]:
    """The rows of `metrics.csv`, in the order of `COLUMNS`."""
    return [
        (
            clip.arm,
            clip.prompt,
            clip.seed,
            metric.name,
            clip.measures[metric.name].value if metric.name in clip.measures else None,
            metric.unit,
            clip.measures[metric.name].status if metric.name in clip.measures else clip.error or "missing",
            clip.path,
        )
        for clip in summary.clips
        for metric in summary.metrics
    ]


def has_parquet() -> bool:
    """Whether pyarrow is installed, which is optional."""
    return importlib.util.find_spec("pyarrow") is not None


def write_parquet(summary: ComparisonSummary, path: Path) -> None:
    """Writes the rows of `metrics.csv`, exact, as Parquet; needs pyarrow."""
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    rows = table_rows(summary)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
    kinds = {"seed": pyarrow.int64(), "value": pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    parquet.write_table(pyarrow.table(columns, schema=schema), path)


def _table(summary: ComparisonSummary, metrics: list[MetricSummary]) -> list[str]:
    lines = [
        "| metric | setting | difference | interval | p | adjusted | pairs | what it says |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for metric in metrics:
        base = next((mean.span for mean in metric.means if mean.arm == summary.baseline), None)
        about = "nothing measured" if base is None else f"{base.estimate:.3g} {metric.unit}"
        name = f"**{metric.name}**" if metric.name == HEADLINE else metric.name
        lines.append(f"| {name} | {_cell(summary.baseline)} | baseline: {_cell(about)} | | | | | |")
        lines += [_row(each) for each in metric.differences]
    return lines


def _row(each: Difference) -> str:
    relative = "" if each.relative is None else f" ({each.relative:+.0%})"
    difference = "—" if each.span is None else f"{each.span.estimate:+.3g}{relative}"
    pairs = f"{each.num_pairs}" + (f" ({each.num_lost} lost)" if each.num_lost else "")
    cells = [difference, _interval(each.span), _p(each.p), _p(each.adjusted_p), pairs, each.words]
    return f"| | {_cell(each.arm)} | {' | '.join(_cell(cell) for cell in cells)} |"


def _interval(span: Span | None) -> str:
    if span is None:
        return "—"
    return "open" if span.low is None or span.high is None else f"{span.low:+.3g} … {span.high:+.3g}"


def _p(p: float | None) -> str:
    return "—" if p is None else f"{p:.2g}"


def _neutral(cell: str | int | float | None) -> str | int | float | None:
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return f"'{cell}"
    return cell


def _inline(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    plain = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|!~$&" else sign for sign in plain)


def _cell(text: str) -> str:
    return _inline(text) or " "


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")
