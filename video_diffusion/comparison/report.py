"""`report.html` and the folder it stands in: everything a comparison found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from video_diffusion.comparison.charts import Chart, draw_charts, write_plots
from video_diffusion.comparison.summary import (
    SUMMARY_FILE,
    Arm,
    ClipMeasure,
    ClipResult,
    ComparisonSummary,
    MetricSummary,
    arm_badges,
    short_label,
)
from video_diffusion.comparison.tables import (
    UNITS,
    aim_of,
    arm_rows,
    has_parquet,
    markdown,
    number_rows,
    table_csv,
    write_parquet,
)
from video_diffusion.comparison.verdict import Findings, peeking
from video_diffusion.settings import ConfigError
from video_diffusion.video import atomic_path, write_bytes
from video_diffusion.web import (
    ClipView,
    SliceLine,
    counted,
    inline_svg,
    number,
    render_page,
    with_pictures,
    write_page,
)


@dataclass(frozen=True)
class PairCard:
    """The clips of one prompt and seed under every setting; `anchor` is the card's id on the page."""

    anchor: str
    prompt: str
    seed: int
    cells: tuple[ClipView, ...]

    @property
    def key(self) -> tuple[str, int]:
        """As `ClipResult.key`."""
        return self.prompt, self.seed


def view_pairs(summary: ComparisonSummary, folder: Path) -> list[PairCard]:
    """Every card in the declared order; the slices of a card follow the same line, the baseline's choice."""
    clips = {(clip.key, clip.arm): clip for clip in summary.clips}
    keys = list(dict.fromkeys(clip.key for clip in summary.clips))
    curve = _curve_metric(summary)
    peak = _peak(summary, curve)
    cards = []
    for index, (prompt, seed) in enumerate(keys):
        cells: list[ClipView] = []
        line: SliceLine | None = None
        for arm in summary.arms:  # the baseline first
            clip = clips.get(((prompt, seed), arm.label))
            view = with_pictures(_view(summary, arm, prompt, seed, clip, curve, peak), folder, line)
            if arm.is_baseline and view.pictures is not None:
                line = view.pictures.line
            cells.append(view)
        cards.append(PairCard(f"pair-{index}", prompt, seed, tuple(cells)))
    return cards


def _view(
    summary: ComparisonSummary,
    arm: Arm,
    prompt: str,
    seed: int,
    clip: ClipResult | None,
    curve: MetricSummary | None,
    peak: float,
) -> ClipView:
    base = ClipView(
        title=short_label(arm),
        badge=arm_badges(summary.arms)[arm.label],
        description=f"{arm.label}: {prompt}, seed {seed}",
        is_reference=arm.is_baseline,
    )
    if clip is None or clip.error or not clip.path:
        return replace(base, problem=clip.error if clip is not None and clip.error else "It was not made")
    main = [metric.name for metric in summary.metrics if metric.role != "other"]
    measured = {name: clip.measures[name] for name in main if name in clip.measures}
    return replace(
        base,
        path=clip.path,
        record=clip.record,
        command=clip.command,
        fps=clip.fps,
        num_frames=clip.num_frames,
        width=clip.width,
        height=clip.height,
        series=clip.series.get(curve.name, ()) if curve else (),
        series_label=f"{curve.name} in {curve.unit}" if curve else "",
        series_peak=peak,
        facts={name.replace("_", " "): _fact(measure) for name, measure in measured.items()},
        keys={
            name: measure.value
            for name, measure in measured.items()
            if measure.value is not None and math.isfinite(measure.value)
        },
    )


def _fact(measure: ClipMeasure) -> str:
    """The value, and what there is to know about it."""
    return number(measure.value) + ("" if measure.status == "ok" else f" {measure.status.replace('_', ' ')}")


def _curve_metric(summary: ComparisonSummary) -> MetricSummary | None:
    """The first metric with a value for each frame: the headline, where it has them."""
    named = {name for clip in summary.clips for name, series in clip.series.items() if any(series)}
    return next((metric for metric in summary.metrics if metric.name in named), None)


def _peak(summary: ComparisonSummary, curve: MetricSummary | None) -> float:
    """The top of every curve's box: the largest value, at least 1, so that next to nothing looks like it."""
    if curve is None:
        return 0.0
    values = [
        value for clip in summary.clips for value in clip.series.get(curve.name, ()) if value is not None
    ]
    return max([1.0, *(value for value in values if math.isfinite(value))])


# `report.html`: everything a comparison found on one page, and its plots as files for papers.


REPORT_FILE = "report.html"
PLOTS = "plots"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Figure:
    """A chart as it stands on the page."""

    title: str
    note: str
    name: str
    svg: Markup


def write_report(summary: ComparisonSummary, folder: Path) -> Path:
    """Writes the page into a comparison's folder, its plots into `plots/` there, and returns the page's path.

    Clips are read for their still pictures; one that is missing or damaged is shown as that.
    """
    page, charts = _draw(summary, folder)
    write_page(folder / REPORT_FILE, page)
    write_plots(charts, folder / PLOTS)
    return folder / REPORT_FILE


def render_report(summary: ComparisonSummary, folder: Path) -> str:
    """The page itself; arguments as `write_report`."""
    return _draw(summary, folder)[0]


def _draw(summary: ComparisonSummary, folder: Path) -> tuple[str, Sequence[Chart]]:
    """The page, and the charts on it."""
    pairs = view_pairs(summary, folder)
    charts = draw_charts(summary, {pair.key: f"#{pair.anchor}" for pair in pairs})
    main = [metric for metric in summary.metrics if metric.role != "other"]
    figures = [
        (
            chart.metric is None or chart.metric in main,
            Figure(
                chart.title, chart.note, chart.name,
                inline_svg(chart.svg, chart.name, chart.words, chart.hints),
            ),
        )
        for chart in charts
    ]  # fmt: skip
    values = {
        "summary": summary,
        "badges": arm_badges(summary.arms),
        "main_metrics": [(metric, aim_of(metric)) for metric in main],
        "units": {metric.unit: UNITS[metric.unit] for metric in main if metric.unit in UNITS},
        "rows": arm_rows(summary),
        "numbers": number_rows(summary),
        "figures": [figure for is_main, figure in figures if is_main],
        "other_figures": [figure for is_main, figure in figures if not is_main],
        "pairs": pairs,
    }
    page = render_page(TEMPLATES, "report.html", values, styles=("report.css",), scripts=("report.js",))
    return page, charts


# The folder of a comparison: what is written when its clips are there, and what earlier looks left in it.


CONFIG, MARKDOWN, CSV, PARQUET = "config.yaml", "summary.md", "metrics.csv", "metrics.parquet"


def read_summary(folder: Path) -> ComparisonSummary:
    """The summary of a comparison's folder."""
    path = folder / SUMMARY_FILE
    return ComparisonSummary.from_json(path.read_bytes(), str(path))


def with_earlier_looks(found: Findings, folder: Path) -> Findings:
    """The findings with a warning if results were seen here before the design grew.

    Seeing results and then adding seeds or prompts finds differences by chance; the folder remembers.
    """
    if not (folder / SUMMARY_FILE).is_file():
        return found
    try:
        before = read_summary(folder)
    except (ConfigError, OSError):
        return found  # an unreadable summary is replaced by this one
    same_design = before.baseline == found.arms[0].label
    inside = set(before.prompts) <= set(found.prompts) and set(before.seeds) <= set(found.seeds)
    grew = len(before.prompts) < len(found.prompts) or len(before.seeds) < len(found.seeds)
    looks = before.looks if same_design and inside else ()
    if same_design and inside and grew:
        looks = (*looks, _size(before.prompts, before.seeds))
    warnings = (*found.warnings, *peeking(looks, _size(found.prompts, found.seeds)))
    return replace(found, looks=looks, warnings=warnings)


def write_folder(summary: ComparisonSummary, folder: Path) -> list[Path]:
    """Writes the summary, its tables and the report page; each is whole or absent, the summary comes last."""
    written = [write_report(summary, folder)]
    for name, text in ((MARKDOWN, markdown(summary)), (CSV, table_csv(summary))):
        write_bytes(folder / name, text.encode())
        written.append(folder / name)
    if has_parquet():
        with atomic_path(folder / PARQUET) as part:
            write_parquet(summary, part)
        written.append(folder / PARQUET)
    write_bytes(folder / SUMMARY_FILE, summary.to_json().encode())
    return [*written, folder / SUMMARY_FILE]


def _size(prompts: tuple[str, ...], seeds: tuple[int, ...]) -> str:
    return f"{counted(len(prompts), 'prompt')} × {counted(len(seeds), 'seed')}"
