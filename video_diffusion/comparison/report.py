"""`report.html`: everything a comparison found on one page, and its plots as files for papers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_diffusion.comparison.report_clips import view_pairs
from video_diffusion.comparison.report_heat_map import draw_heat_maps
from video_diffusion.comparison.report_pareto import draw_pareto
from video_diffusion.comparison.report_strips import draw_strip, pair_differences
from video_diffusion.comparison.report_table import aim_of, arm_badges, arm_rows, number_rows
from video_diffusion.comparison.summary import ComparisonSummary
from video_diffusion.web import render_page, write_page

FILE_NAME = "report.html"
PLOTS = "plots"
TEMPLATES = Path(__file__).parent / "templates"


def write_report(summary: ComparisonSummary, folder: Path) -> Path:
    """Writes the page into a comparison's folder, its plots into `plots/` there, and returns the page's path.

    Clips are read for their still pictures; one that is missing or damaged is shown as that.

    Args:
        summary: all that the page says.
        folder: that the clips' paths are relative to.

    Raises:
        OSError: no space, no permission; an earlier page stays.
    """
    write_page(folder / FILE_NAME, render_report(summary, folder))
    from video_diffusion.comparison.plots import write_plots  # noqa: PLC0415  # matplotlib: only who writes waits

    write_plots(summary, folder / PLOTS)
    return folder / FILE_NAME


def render_report(summary: ComparisonSummary, folder: Path) -> str:
    """The page itself; arguments as `write_report`."""
    values = _values(summary, folder)
    return render_page(TEMPLATES, "report.html", values, styles=("report.css",), scripts=("report.js",))


def _values(summary: ComparisonSummary, folder: Path) -> Mapping[str, Any]:
    badges = arm_badges(summary)
    pairs = view_pairs(summary, folder)
    anchors = {pair.key: pair.anchor for pair in pairs}
    main = [metric for metric in summary.metrics if metric.role != "other"]
    strips = {metric.name: draw_strip(summary, metric, anchors) for metric in summary.metrics}
    return {
        "summary": summary,
        "badges": badges,
        "main_metrics": [(metric, aim_of(metric)) for metric in main],
        "rows": arm_rows(summary),
        "numbers": number_rows(summary),
        "pareto": draw_pareto(summary),
        "main_strips": [strips[metric.name] for metric in main],
        "other_strips": [
            strips[metric.name]
            for metric in summary.metrics
            if metric.role == "other" and any(pair_differences(summary, metric.name).values())
        ],
        "heat_maps": draw_heat_maps(summary),
        "pairs": pairs,
    }
