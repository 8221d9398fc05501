"""The tables of a comparison: for the page, as CSV and as Markdown."""

import csv
import importlib
import importlib.util
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from video_diffusion.comparison.reference import in_words
from video_diffusion.comparison.statistics import GUARDS, HEADLINE
from video_diffusion.comparison.summary import (
    Arm,
    ArmMean,
    Change,
    ComparisonSummary,
    Difference,
    MetricSummary,
    Span,
    arm_badges,
    short_label,
)
from video_diffusion.web import number, scale_over, signed

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
            f"| {_inline(each.arm)} | {_inline(each.words)} | {_inline(each.sentence)} |"
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
    if summary.sets:
        lines += [f"## Does it move like {_inline(summary.reference)}?", ""]
        lines += [f"- {_inline(each.arm)}: {in_words(each)}" for each in summary.sets] + [""]
    lines += ["## How this was computed", "", *(f"- {_inline(note)}" for note in summary.notes)]
    lines += [f"- {_inline(summary.power)}"] if summary.power else []
    baseline, command = (" ".join(s.split()).replace("`", "'") for s in (summary.baseline, summary.command))
    lines += [f"- Baseline: `{baseline}`. Made again by `{command}`.", ""]
    return "\n".join(lines)


def table_csv(summary: ComparisonSummary) -> str:
    """One row for each value of each clip, failed clips with an empty value.

    A cell that a spreadsheet would take for a formula begins with an apostrophe; `summary.json` is exact.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table_rows(summary):
        writer.writerow(
            f"'{cell}" if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA) else cell
            for cell in row
        )
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
        "| metric | setting | from | to | difference | interval | p | adjusted | pairs | what it says |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for metric in metrics:
        base = next((mean.span for mean in metric.means if mean.arm == summary.baseline), None)
        about = "nothing measured" if base is None else f"{base.estimate:.3g} {metric.unit}"
        name = f"**{metric.name}**" if metric.name == HEADLINE else metric.name
        lines.append(f"| {name} | {_inline(summary.baseline)} | {_inline(about)} | | | | | | | all clips |")
        lines += [_row(each) for each in metric.differences]
    return lines


def _row(each: Difference) -> str:
    relative = "" if each.relative is None else f" ({each.relative:+.0%})"
    pairs = f"{each.num_pairs}" + (f" ({each.num_lost} lost)" if each.num_lost else "")
    sides = ["—" if side is None else f"{side:.3g}" for side in (each.baseline_mean, each.mean)]
    p, adjusted = ("—" if value is None else f"{value:.2g}" for value in (each.p, each.adjusted_p))
    difference = interval = "—"
    if each.span is not None:
        difference = f"{each.span.estimate:+.3g}{relative}"
        is_open = each.span.low is None or each.span.high is None
        interval = "open" if is_open else f"{each.span.low:+.3g} … {each.span.high:+.3g}"
    cells = [each.arm, *sides, difference, interval, p, adjusted, pairs, each.words]
    return f"| | {' | '.join(map(_inline, cells))} |"


def _inline(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line; a space where there is none."""
    plain = " ".join(text.split()) or " "
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|!~$&" else sign for sign in plain)


# The tables of the report: one row for each setting, and one for each setting in each metric.


Tone: TypeAlias = Literal["good", "bad", "even"]
UNITS = {
    "levels": "steps of brightness, of which 255 lead from black to white",
    "px/frame at 256": "pixels from one frame to the next, as if the image were 256 high",
    "levels/px": "steps of brightness from one pixel to its neighbour",
    "share of what is named": "1 if colours, shapes, sizes and motions are all as the prompt says",
    "cuts": "jumps from one frame to the next, as between two takes",
    "100 × cosine": "100 where image and prompt mean the same to CLIP",
}
"""Units as someone who never met them reads them; where a unit first stands, its line stands beside it."""
OUTCOME_TONES = {
    "baseline": "neutral",
    "wins": "good",
    "trades": "mixed",
    "flickers more": "bad",
    "no difference seen": "neutral",
    "too few to tell": "open",
    "cannot be compared": "open",
}
GLYPH_WIDTH = 132.0


@dataclass(frozen=True)
class IntervalGlyph:
    """A difference and its interval drawn small, all of one metric to the same scale; pixels.

    Attributes:
        zero, estimate: where they lie.
        low, high: ends of the interval; at the edge where it is open.
        floor: left and right of the band that other seeds alone would give, None without one.
    """

    zero: float
    estimate: float
    low: float
    high: float
    floor: tuple[float, float] | None


@dataclass(frozen=True)
class MetricCell:
    """One metric of one setting: texts as shown, and the drawn interval of its difference.

    Attributes:
        baseline, mean: over the same pairs, so that they differ by `difference`; of the baseline itself, and
            where nothing is paired, over all that was measured.
    """

    baseline: str
    mean: str
    difference: str
    interval: str
    tone: Tone
    words: str
    p: str
    adjusted_p: str
    median: str
    share_better: str
    relative: str
    num_pairs: int
    num_lost: int
    prompts_needed: str
    glyph: IntervalGlyph | None


@dataclass(frozen=True)
class ArmRow:
    """One setting: its badge, verdict, and a cell for each headline and guard metric.

    Attributes:
        short: see `short_label`.
        changes: what its label does not say already, in words.
        is_best: it is on the front of flicker, morph and motion.
    """

    badge: str
    arm: Arm
    short: str
    changes: tuple[str, ...]
    is_best: bool
    outcome: str
    tone: str
    words: str
    sentence: str
    cells: tuple[MetricCell, ...]


def arm_rows(summary: ComparisonSummary) -> list[ArmRow]:
    """The main table: the baseline first."""
    badges = arm_badges(summary.arms)
    main = [metric for metric in summary.metrics if metric.role != "other"]
    rows = []
    for arm in summary.arms:
        verdict = summary.verdict(arm.label)
        outcome = verdict.outcome if verdict else "baseline"
        rows.append(
            ArmRow(
                badge=badges[arm.label],
                arm=arm,
                short=short_label(arm),
                changes=tuple(map(_told_change, (c for c in arm.changes if c.setting not in arm.place))),
                is_best=any(point.on_front for point in summary.pareto if point.arm == arm.label),
                outcome=outcome,
                tone="bad" if verdict and verdict.lost and outcome != "trades" else OUTCOME_TONES[outcome],
                words=verdict.words if verdict else "baseline",
                sentence=verdict.sentence if verdict else "",
                cells=tuple(_html_cell(metric, arm.label) for metric in main),
            )
        )
    return rows


def number_rows(summary: ComparisonSummary) -> list[tuple[MetricSummary, str, MetricCell]]:
    """The table of every number: metric by metric, each with every setting but the baseline."""
    return [
        (metric, difference.arm, _html_cell(metric, difference.arm))
        for metric in summary.metrics
        for difference in metric.differences
    ]


def _told_change(change: Change) -> str:
    """One setting in words: "motion adapter: left to the model (the baseline's: none)"."""
    value, base = ("left to the model" if each is None else each for each in (change.value, change.baseline))
    return f"{change.setting.replace('_', ' ')}: {value} (the baseline's: {base})"


def tone_of(metric: MetricSummary, difference: Difference) -> Tone:
    """Whether what the test says is good or bad; a guard may move by its margin, and never does good."""
    if difference.span is None or difference.words not in {"lower", "higher"}:
        return "even"
    rises = difference.words == "higher"
    if metric.role == "guard":
        beyond = abs(difference.span.estimate) > (metric.margin or 0.0)
        return "bad" if beyond and rises == (GUARDS.get(metric.name, 1) < 0) else "even"
    if metric.direction == "neither":
        return "even"
    return "good" if rises == (metric.direction == "higher") else "bad"


def aim_of(metric: MetricSummary) -> str:
    """Which way is better, or what the guard forbids, in words; "" for what only describes."""
    if metric.role == "guard":
        return "must not rise" if GUARDS.get(metric.name, 1) < 0 else "must not fall"
    return "" if metric.direction == "neither" else f"{metric.direction} is better"


def worse_of(metric: MetricSummary) -> int:
    """+1 where more of it is worse, -1 where less is; what only describes counts as the former."""
    if metric.direction == "neither":
        return -GUARDS.get(metric.name, -1)
    return 1 if metric.direction == "lower" else -1


def _html_cell(metric: MetricSummary, arm: str) -> MetricCell:
    difference = next((entry for entry in metric.differences if entry.arm == arm), None)
    if difference is None:
        mean = _mean_text(metric, arm)
        return MetricCell(mean, mean, "", "", "even", "", "", "", "", "", "", 0, 0, "", None)
    span = difference.span
    return MetricCell(
        baseline=number(difference.baseline_mean),
        mean=_mean_text(metric, arm) if difference.mean is None else number(difference.mean),
        difference=signed(span.estimate) if span else "—",
        interval=interval_text(span),
        tone=tone_of(metric, difference),
        words=difference.words,
        p=_p_text(difference.p),
        adjusted_p=_p_text(difference.adjusted_p),
        median=signed(difference.median),
        share_better=_percent(difference.share_better),
        relative=_percent(difference.relative, sign=True),
        num_pairs=difference.num_pairs,
        num_lost=difference.num_lost,
        prompts_needed="—" if difference.prompts_needed is None else f"{difference.prompts_needed}",
        glyph=_glyph(metric, difference),
    )


def interval_text(span: Span | None) -> str:
    """The interval in brackets; an open end is an infinity."""
    if span is None:
        return ""
    low = "−∞" if span.low is None else signed(span.low)
    high = "+∞" if span.high is None else signed(span.high)
    return f"[{low}, {high}]"


def _glyph(metric: MetricSummary, difference: Difference) -> IntervalGlyph | None:
    span = difference.span
    if span is None or not math.isfinite(span.estimate):
        return None
    floor = metric.noise_floor
    spans = [entry.span for entry in metric.differences if entry.span] + ([floor] if floor else [])
    values = [value for each in spans for value in (each.low, each.estimate, each.high)]
    scale = scale_over(values, 4.0, GLYPH_WIDTH - 4.0, zero=True)
    band = (
        (scale(floor.low), scale(floor.high))
        if floor is not None and floor.low is not None and floor.high is not None
        else None
    )
    return IntervalGlyph(
        zero=scale(0.0),
        estimate=scale(span.estimate),
        low=scale(scale.low if span.low is None else span.low),
        high=scale(scale.high if span.high is None else span.high),
        floor=band,
    )


def _mean_text(metric: MetricSummary, arm: str) -> str:
    found: ArmMean | None = next((mean for mean in metric.means if mean.arm == arm), None)
    return number(found.span.estimate) if found and found.span else "—"


def _p_text(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return "—"
    return "< 0.001" if p < 0.001 else number(p, 2)


def _percent(share: float | None, sign: bool = False) -> str:
    if share is None or not math.isfinite(share):
        return "—"
    return f"{signed(100 * share, 3) if sign else number(100 * share, 3)} %"
