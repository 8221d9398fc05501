"""`report.html` and the folder it stands in: everything a comparison found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from video_diffusion.comparison.charts import Chart, draw_charts, write_plots
from video_diffusion.comparison.summary import (
    SUMMARY_FILE,
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
    worse_of,
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
    with_images,
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


def view_pairs(
    summary: ComparisonSummary, folder: Path, first: int = 0, last: int | None = None, images: bool = True
) -> list[PairCard]:
    """Cards in the declared order; the slices of a card follow the same line, the baseline's choice.

    Args:
        summary: whose clips they show.
        folder: of the page.
        first: number of the first card.
        last: number of the first card that is left out; None for all.
        images: whether posters and slices are drawn, which reads every clip.
    """
    clips = {(clip.key, clip.arm): clip for clip in summary.clips}
    keys = list(dict.fromkeys(clip.key for clip in summary.clips))
    curve = _curve_metric(summary)
    peak = _peak(summary, curve)
    badges = arm_badges(summary.arms)
    cards = []
    for index, (prompt, seed) in list(enumerate(keys))[first:last]:
        cells: list[ClipView] = []
        line: SliceLine | None = None
        for arm in summary.arms:  # the baseline first
            base = ClipView(
                title=short_label(arm),
                badge=badges[arm.label],
                description=f"{arm.label}: {prompt}, seed {seed}",
                is_reference=arm.is_baseline,
            )
            view = _view(summary, base, clips.get(((prompt, seed), arm.label)), curve, peak)
            if images:
                view = with_images(view, folder, line)
            elif view.path and not (folder / view.path).exists():
                view = replace(view, problem="The file is not there")
            if arm.is_baseline and view.images is not None:
                line = view.images.line
            cells.append(view)
        cards.append(PairCard(f"pair-{index}", prompt, seed, tuple(cells)))
    return cards


def played(view: ClipView, clip: ClipResult) -> ClipView:
    """A view with the file of a clip, its record, command, size and rate."""
    return replace(
        view,
        path=clip.path,
        record=clip.record,
        command=clip.command,
        fps=clip.fps,
        num_frames=clip.num_frames,
        width=clip.width,
        height=clip.height,
    )


def _view(
    summary: ComparisonSummary,
    base: ClipView,
    clip: ClipResult | None,
    curve: MetricSummary | None,
    peak: float,
) -> ClipView:
    if clip is None or clip.error or not clip.path:
        return replace(base, problem=clip.error if clip is not None and clip.error else "It was not made")
    main = [metric.name for metric in summary.metrics if metric.role != "other"]
    measured = {name: clip.measures[name] for name in main if name in clip.measures}
    return replace(
        played(base, clip),
        series=clip.series.get(curve.name, ()) if curve else (),
        series_label=f"{curve.name} in {curve.unit}" if curve else "",
        series_peak=peak,
        facts={
            name.replace("_", " "): number(each.value)
            + ("" if each.status == "ok" else f" {each.status.replace('_', ' ')}")
            for name, each in measured.items()
        },
        values={
            name: measure.value
            for name, measure in clip.measures.items()
            if measure.value is not None and math.isfinite(measure.value)
        },
    )


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
PARTS = {"styles": ("report.css",), "scripts": ("report.js",)}
MOST_CLIPS_OF_ONE_PAGE = 600
CLIPS_OF_A_PAGE = 160  # where there are more than that


@dataclass(frozen=True)
class Figure:
    """A chart as it stands on the page."""

    title: str
    note: str
    name: str
    svg: Markup


@dataclass(frozen=True)
class PageLink:
    """One page of clips: its file, and the numbers of its first and last pair, counted from 1."""

    file: str
    first: int
    last: int


def write_report(summary: ComparisonSummary, folder: Path) -> Path:
    """Writes the page into a comparison's folder, its plots into `plots/` there, and returns the page's path.

    Clips are read for their still images; one that is missing or damaged is shown as that. Of many clips,
    further pages hold those that the first has no room for, without images.
    """
    links = _page_links(summary)
    page, charts = _draw(summary, folder, links)
    write_page(folder / REPORT_FILE, page)
    for number_of_page, link in enumerate(links[1:], start=1):
        cards = view_pairs(summary, folder, link.first - 1, link.last, images=False)
        values = {**_values(summary, links, number_of_page), "pairs": cards, "is_first": False}
        write_page(folder / link.file, render_page(TEMPLATES, "report.html", values, **PARTS))
    write_plots(charts, folder / PLOTS)
    for path in folder.glob("report-*.html"):  # of an earlier comparison with more clips
        if path.name not in {link.file for link in links} and path.stem.removeprefix("report-").isdigit():
            path.unlink()
    return folder / REPORT_FILE


def render_report(summary: ComparisonSummary, folder: Path) -> str:
    """The page itself, the first where there are several; arguments as `write_report`."""
    return _draw(summary, folder, _page_links(summary))[0]


def _page_links(summary: ComparisonSummary) -> list[PageLink]:
    count = len({clip.key for clip in summary.clips})
    arms = len(summary.arms)
    size = count if count * arms <= MOST_CLIPS_OF_ONE_PAGE else max(1, CLIPS_OF_A_PAGE // arms)
    starts = range(0, count, max(1, size))
    return [
        PageLink(f"report-{at}.html" if at > 1 else REPORT_FILE, start + 1, min(count, start + size))
        for at, start in enumerate(starts, start=1)
    ]


def _values(summary: ComparisonSummary, links: Sequence[PageLink], current: int) -> dict[str, Any]:
    """What every page shows."""
    main = [metric for metric in summary.metrics if metric.role != "other"]
    return {
        "summary": summary,
        "badges": arm_badges(summary.arms),
        "main_metrics": [(metric, aim_of(metric)) for metric in main],
        "measures": [(metric.name, worse_of(metric)) for metric in summary.metrics],
        "rows": arm_rows(summary),
        "pages": links,
        "current": current,
    }


def _draw(summary: ComparisonSummary, folder: Path, links: Sequence[PageLink]) -> tuple[str, Sequence[Chart]]:
    """The first page, and the charts on it."""
    keys = dict.fromkeys(clip.key for clip in summary.clips)
    files = [link.file for link in links for _ in range(link.first, link.last + 1)]
    charts = draw_charts(
        summary,
        {
            key: f"#pair-{index}" if file == REPORT_FILE else f"./{file}#pair-{index}"
            for index, (key, file) in enumerate(zip(keys, files, strict=True))
        },
    )
    values = _values(summary, links, 0)
    main = {metric.name for metric, _ in values["main_metrics"]}
    figures: dict[bool, list[Figure]] = {True: [], False: []}
    for chart in charts:
        svg = inline_svg(chart.svg, chart.name, chart.words, chart.hints)
        is_main = chart.metric is None or chart.metric.name in main
        figures[is_main].append(Figure(chart.title, chart.note, chart.name, svg))
    values |= {
        "units": {m.unit: UNITS[m.unit] for m in summary.metrics if m.name in main and m.unit in UNITS},
        "numbers": number_rows(summary),
        "figures": figures[True],
        "other_figures": figures[False],
        "files": [CSV, SUMMARY_FILE, MARKDOWN, *([CONFIG] if (folder / CONFIG).is_file() else [])],
        "pairs": view_pairs(summary, folder, 0, links[0].last if links else None),
        "is_first": True,
    }
    return render_page(TEMPLATES, "report.html", values, **PARTS), charts


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
