"""The plots of a comparison as PNG and SVG for papers: drawn alike for alike summaries, down to the byte."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from video_diffusion.comparison.report_pareto import SHARPNESS_COLOURS, ParetoChart, draw_pareto, plane_axis
from video_diffusion.comparison.report_strips import pair_differences
from video_diffusion.comparison.report_table import arm_badges, tone_of
from video_diffusion.comparison.summary import ComparisonSummary, MetricSummary, Span
from video_diffusion.io import atomic_path
from video_diffusion.web import number, visible

INK, SOFT, RULE = "#1d2433", "#565f70", "#e2e5e9"
TONES = {"good": "#1c7a4d", "bad": "#b93434", "even": SOFT}
FORMATS = (".svg", ".png")
DOTS_PER_INCH = 200
MAX_LABEL = 48
AXES = ("flicker", "motion")  # of the Pareto plot
INCHES_PER_LETTER = 0.07  # about, at the size of the labels


def write_plots(summary: ComparisonSummary, folder: Path) -> list[Path]:
    """Writes every plot in both formats and returns the paths.

    They are `pareto`, `strip-<metric>` for each metric with a pair, and `heat-<metric>` for the headline and
    the guards of a grid of two axes.

    Raises:
        OSError: no space, no permission.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with _paper_style():
        for name, figure in _figures(summary):
            figure.draw_without_rendering()  # the layout, which takes longest, once for both formats
            figure.set_layout_engine("none")
            written += [_save(figure, folder / f"{name}{suffix}") for suffix in FORMATS]
    return written


def _figures(summary: ComparisonSummary) -> Iterator[tuple[str, Figure]]:
    chart = draw_pareto(summary)
    if chart is not None:
        yield "pareto", _pareto(summary, chart)
    for metric in summary.metrics:
        if any(pair_differences(summary, metric.name).values()):
            yield f"strip-{metric.name}", _strip(summary, metric)
    if len(summary.axes) == 2:
        for metric in summary.metrics:
            if metric.role != "other" and any(mean.span for mean in metric.means):
                yield f"heat-{metric.name}", _heat_map(summary, metric)


def _pareto(summary: ComparisonSummary, chart: ParetoChart) -> Figure:
    """The plot of the page, on axes of the same range, its letters where they found room there."""
    flicker, motion = (plane_axis([getattr(p, name) for p in summary.pareto], 0.0, 1.0) for name in AXES)
    sharp = [point.sharpness for point in summary.pareto if point.sharpness is not None]
    low, high = (min(sharp), max(sharp)) if sharp else (0.0, 0.0)
    figure, axes = _figure(5.4, 4.0 + 0.17 * len(chart.marks))
    points = {point.arm: point for point in summary.pareto}
    for mark in chart.marks:
        point = points[mark.label]
        x, y = point.flicker.estimate, point.motion.estimate
        across, along = _error(point.flicker), _error(point.motion)
        axes.errorbar(x, y, xerr=across, yerr=along, color=SOFT, alpha=0.6, linewidth=1.0, zorder=2)
        axes.scatter([x], [y], s=46, color=mark.colour, edgecolors="white", zorder=4)
        if mark.is_baseline:
            axes.scatter([x], [y], s=120, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=4)
        beside = (0.65 * (mark.label_at[0] - mark.at[0]), -0.65 * (mark.label_at[1] - mark.at[1]))
        axes.annotate(
            mark.badge, (x, y), beside, textcoords="offset points", ha="center", va="center", weight="bold",
            zorder=5, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    front = sorted((p.flicker.estimate, p.motion.estimate) for p in summary.pareto if p.on_front)
    axes.plot([x for x, _ in front], [y for _, y in front], color=SOFT, linestyle="--", linewidth=1, zorder=1)
    axes.set_xlim(flicker.low, flicker.high)
    axes.set_ylim(motion.low, motion.high)
    axes.set_xlabel(f"flicker, {chart.x_unit}")
    axes.set_ylabel(f"motion, {chart.y_unit}")
    named = sorted(chart.marks, key=lambda mark: mark.order)
    legend = figure.legend(
        handles=[Line2D([], [], marker="o", linestyle="", color=mark.colour) for mark in named],
        labels=[mark.badge for mark in named],
        loc="outside lower left",
        frameon=False,
    )
    for text, mark in zip(legend.get_texts(), named, strict=True):
        text.set_parse_math(False)
        text.set_text(
            f"{mark.badge}  {_label(mark.label)}{' (baseline, ringed)' if mark.is_baseline else ''}"
        )
    if high > low:
        colours = LinearSegmentedColormap.from_list(
            "sharpness", [tuple(part / 255 for part in colour) for colour in SHARPNESS_COLOURS]
        )
        bar = figure.colorbar(ScalarMappable(Normalize(low, high), colours), ax=axes, shrink=0.75)
        bar.set_label("sharpness", fontsize=8)
        bar.outline.set_visible(False)
    return figure


def _strip(summary: ComparisonSummary, metric: MetricSummary) -> Figure:
    pairs = pair_differences(summary, metric.name)
    badges = arm_badges(summary)
    count = len(metric.differences)
    names = [f"{badges[entry.arm]}  {_label(entry.arm)}" for entry in metric.differences]
    words = f"{metric.name.replace('_', ' ')}: difference to the baseline, {metric.unit}"
    room = INCHES_PER_LETTER * max(len(name) for name in names)
    figure, axes = _figure(room + max(3.9, INCHES_PER_LETTER * len(words)), 0.9 + 0.42 * count)
    floor = metric.noise_floor
    if floor is not None and floor.low is not None and floor.high is not None:
        axes.axvspan(floor.low, floor.high, color=SOFT, alpha=0.15, linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.9)
    for row, entry in enumerate(metric.differences):
        values = list(pairs[entry.arm].values())
        heights = [row + 0.36 * (((place * 0.618) % 1) - 0.5) for place in range(len(values))]
        axes.scatter(values, heights, s=11, color=INK, alpha=0.35, linewidths=0)
        if entry.span is not None:
            colour = TONES[tone_of(metric, entry)]
            axes.errorbar(
                entry.span.estimate, row, xerr=_error(entry.span), fmt="o", color=colour, markersize=5,
                capsize=3.5, linewidth=1.6,
            )  # fmt: skip
    axes.set_yticks(range(count))
    axes.set_yticklabels(names, parse_math=False)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlabel(words)
    return figure


def _heat_map(summary: ComparisonSummary, metric: MetricSummary) -> Figure:
    down, across = summary.axes
    means = {mean.arm: mean.span.estimate for mean in metric.means if mean.span}
    table = [[float("nan")] * len(across.values) for _ in down.values]
    places = {}
    for arm in summary.arms:
        if arm.place.get(down.name) in down.values and arm.place.get(across.name) in across.values:
            row, column = down.values.index(arm.place[down.name]), across.values.index(arm.place[across.name])
            table[row][column] = means.get(arm.label, float("nan"))
            places[row, column] = arm.is_baseline
    figure, axes = _figure(1.6 + 0.75 * len(across.values), 1.0 + 0.5 * len(down.values))
    colours = LinearSegmentedColormap.from_list("paper", ["#fbf3f4", "#b93450"])
    axes.imshow(table, cmap=colours, aspect="auto", alpha=0.75)
    for (row, column), is_baseline in places.items():
        weight = "bold" if is_baseline else "normal"
        axes.text(
            column, row, number(table[row][column]), ha="center", va="center", fontsize=9, weight=weight
        )
    axes.set_xticks(range(len(across.values)))
    axes.set_xticklabels([_label(value) for value in across.values], parse_math=False)
    axes.set_yticks(range(len(down.values)))
    axes.set_yticklabels([_label(value) for value in down.values], parse_math=False)
    axes.set_xlabel(_label(across.name), parse_math=False)
    axes.set_ylabel(_label(down.name), parse_math=False)
    axes.set_title(f"{metric.name.replace('_', ' ')}, {metric.unit} (bold: the baseline)", fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure that needs no screen, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


@contextmanager
def _paper_style() -> Iterator[None]:
    """Plain fonts, texts that stay texts in SVG, and the same bytes for the same plot."""
    with rc_context(), warnings.catch_warnings():
        rcdefaults()
        rcParams["svg.hashsalt"] = "video-diffusion"
        rcParams["svg.fonttype"] = "none"
        rcParams["font.size"] = 8.5
        rcParams["axes.edgecolor"] = SOFT
        rcParams["axes.labelcolor"] = INK
        rcParams["xtick.color"] = rcParams["ytick.color"] = SOFT
        rcParams["text.color"] = INK
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font", UserWarning
        )  # scripts of all the world
        yield


def _save(figure: Figure, path: Path) -> Path:
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
    return path


def _error(span: Span) -> list[list[float]] | None:
    """The two arms of an error bar; None where an end is open."""
    if span.low is None or span.high is None:
        return None
    return [[max(0.0, span.estimate - span.low)], [max(0.0, span.high - span.estimate)]]


def _label(text: str) -> str:
    shown = str(visible(text)).replace("\n", " ")
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"
