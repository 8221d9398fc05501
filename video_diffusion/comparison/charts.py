"""The charts of a comparison: as numbers for the page, and as PNG and SVG for papers."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from video_diffusion.comparison.summary import ComparisonSummary, MetricSummary, ParetoPoint, Span
from video_diffusion.comparison.tables import Tone, aim_of, arm_badges, interval_text, tone_of
from video_diffusion.video import atomic_path
from video_diffusion.web import Scale, number, scale_over, signed, visible


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


def round_ticks(scale: Scale) -> tuple[Tick, ...]:
    """The ticks of a scale with their texts."""
    return tuple(Tick(scale(value), f"{value:g}".replace("-", "−")) for value in scale.ticks())


def floor_band(scale: Scale, floor: Span | None, around: float) -> tuple[float, float] | None:
    """Both ends of the band around a value, in pixels; None without a whole interval."""
    if floor is None or floor.low is None or floor.high is None:
        return None
    return scale(around + floor.low), scale(around + floor.high)


# Heat maps as numbers: the means of a two-axis grid, each in its place.


CELL_WIDTH, CELL_HEIGHT = 76.0, 44.0


@dataclass(frozen=True)
class HeatCell:
    """One place of a two-axis grid; `share` runs from 0 (lowest) to 1."""

    at: tuple[float, float]
    text: str
    share: float | None
    badge: str
    is_baseline: bool
    words: str


@dataclass(frozen=True)
class HeatMap:
    """One metric's means over a two-axis grid."""

    metric: MetricSummary
    across: str
    down: str
    columns: tuple[Tick, ...]
    rows: tuple[Tick, ...]
    cells: tuple[HeatCell, ...]
    left: float
    width: float
    height: float


def draw_heat_maps(summary: ComparisonSummary) -> list[HeatMap]:
    """For a grid of two axes: the headline and the guards, each a map of means; else nothing."""
    if len(summary.axes) != 2:
        return []
    return [
        _heat_map(summary, metric)
        for metric in summary.metrics
        if metric.role != "other" and any(mean.span for mean in metric.means)
    ]


def _heat_map(summary: ComparisonSummary, metric: MetricSummary) -> HeatMap:
    down, across = summary.axes
    badges = arm_badges(summary)
    means = {mean.arm: mean.span.estimate for mean in metric.means if mean.span}
    finite = [value for value in means.values() if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    left = 14 + 7.2 * max((min(len(value), 16) for value in down.values), default=1)
    cells = []
    for arm in summary.arms:
        if arm.place.get(down.name) not in down.values or arm.place.get(across.name) not in across.values:
            continue
        column, row = across.values.index(arm.place[across.name]), down.values.index(arm.place[down.name])
        value = means.get(arm.label)
        share = (value - low) / (high - low) if value is not None and high > low else None
        cells.append(
            HeatCell(
                at=(left + column * CELL_WIDTH, 24 + row * CELL_HEIGHT),
                text=number(value),
                share=None if share is None else round(share, 3),
                badge=badges[arm.label],
                is_baseline=arm.is_baseline,
                words=f"{arm.label}: {number(value)} {metric.unit}",
            )
        )
    return HeatMap(
        metric=metric,
        across=across.name,
        down=down.name,
        columns=tuple(
            Tick(left + (index + 0.5) * CELL_WIDTH, text) for index, text in enumerate(across.values)
        ),
        rows=tuple(Tick(24 + (index + 0.5) * CELL_HEIGHT, text) for index, text in enumerate(down.values)),
        cells=tuple(cells),
        left=left,
        width=left + len(across.values) * CELL_WIDTH + 2,
        height=24 + len(down.values) * CELL_HEIGHT + 2,
    )


# Flicker against motion as numbers: where every mark of the plot goes. Templates draw, styles colour.


PARETO_WIDTH, PARETO_HEIGHT = 520.0, 400.0
SHARPNESS_COLOURS = ((92, 84, 180), (52, 120, 170), (47, 158, 122), (160, 190, 70), (246, 190, 64))
"""From blurred to sharp: each step lighter than the one before, so that it reads without colour too."""


@dataclass(frozen=True)
class ParetoMark:
    """One setting in the plane; `label_at` is where its letter finds room, `order` its place in the table."""

    order: int
    badge: str
    label: str
    is_baseline: bool
    at: tuple[float, float]
    across: tuple[float, float] | None
    along: tuple[float, float] | None
    colour: str
    label_at: tuple[float, float]
    words: str


@dataclass(frozen=True)
class ParetoChart:
    """Flicker to the right, motion up; `floor` is the band of flicker that other seeds alone would give."""

    marks: tuple[ParetoMark, ...]
    front: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_unit: str
    y_unit: str
    floor: tuple[float, float] | None
    sharpness: tuple[str, str] | None
    stops: tuple[tuple[str, str], ...]


def draw_pareto(summary: ComparisonSummary) -> ParetoChart | None:
    """Flicker against motion, None when no setting has both."""
    points = [point for point in summary.pareto if _finite(point.flicker.estimate, point.motion.estimate)]
    flicker, motion = summary.metric("flicker"), summary.metric("motion")
    if not points or flicker is None or motion is None:
        return None
    x = plane_axis([point.flicker for point in points], 58.0, PARETO_WIDTH - 18)
    y = plane_axis([point.motion for point in points], PARETO_HEIGHT - 52, 16.0)
    sharp = [point.sharpness for point in points if point.sharpness is not None]
    low, high = (min(sharp), max(sharp)) if sharp else (0.0, 0.0)
    badges = arm_badges(summary)
    places = [(x(point.flicker.estimate), y(point.motion.estimate)) for point in points]
    letters = _free_places(places)
    base = next((point for point in points if point.is_baseline), None)
    marks = (
        ParetoMark(
            order=order,
            badge=badges[point.arm],
            label=point.arm,
            is_baseline=point.is_baseline,
            at=place,
            across=_ends(x, point.flicker),
            along=_ends(y, point.motion),
            colour=sharpness_colour(point.sharpness, low, high),
            label_at=letter,
            words=_pareto_words(point, flicker.unit, motion.unit),
        )
        for order, (point, place, letter) in enumerate(zip(points, places, letters, strict=True))
    )
    front = sorted(place for point, place in zip(points, places, strict=True) if point.on_front)
    return ParetoChart(
        marks=tuple(sorted(marks, key=lambda mark: mark.is_baseline)),  # the baseline on top
        front="M" + "L".join(f"{left:g} {top:g}" for left, top in front) if len(front) > 1 else "",
        x_ticks=round_ticks(x),
        y_ticks=round_ticks(y),
        x_unit=flicker.unit,
        y_unit=motion.unit,
        floor=floor_band(x, flicker.noise_floor, base.flicker.estimate) if base else None,
        sharpness=(number(low), number(high)) if sharp and high > low else None,
        stops=tuple(
            (number(index / (len(SHARPNESS_COLOURS) - 1)), _hex(colour))
            for index, colour in enumerate(SHARPNESS_COLOURS)
        ),
    )


def sharpness_colour(value: float | None, low: float, high: float) -> str:
    """The colour of a sharpness between the lowest and the highest; grey where it is unknown."""
    if value is None or not math.isfinite(value):
        return "#8b94a5"
    share = (value - low) / (high - low) if high > low else 0.5
    place = min(max(share, 0.0), 1.0) * (len(SHARPNESS_COLOURS) - 1)
    first = min(int(place), len(SHARPNESS_COLOURS) - 2)
    below, above = SHARPNESS_COLOURS[first], SHARPNESS_COLOURS[first + 1]
    return _hex([round(a + (place - first) * (b - a)) for a, b in zip(below, above, strict=True)])


def plane_axis(spans: list[Span], start: float, stop: float) -> Scale:
    """Room for the means and their intervals, but no more than twice the means' own range.

    Bars that are longer end at the frame. The axis starts at 0 unless that would press everything into the
    far half.
    """
    means = [span.estimate for span in spans]
    low, high = min(means), max(means)
    room = (high - low) if high > low else math.inf
    ends = [end for span in spans for end in (span.low, span.high) if end is not None and math.isfinite(end)]
    values = [*means, *(min(max(end, low - room / 2), high + room / 2) for end in ends)]
    return scale_over(values, start, stop, zero=0 <= min(values) < 0.5 * max(values))


def _ends(scale: Scale, span: Span) -> tuple[float, float] | None:
    return None if span.low is None or span.high is None else (scale(span.low), scale(span.high))


def _free_places(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """For each point a place for its letter, away from the other points and the letters placed before."""
    taken = list(places)
    letters = []
    for left, top in places:
        around = [
            (left + 17 * math.cos(turn * math.pi / 4), top + 17 * math.sin(turn * math.pi / 4))
            for turn in (7, 5, 1, 3, 0, 4, 6, 2)
        ]
        best = max(around, key=lambda spot: round(min(20.0, *(math.dist(spot, other) for other in taken)), 3))
        taken.append(best)
        letters.append((round(best[0], 1), round(best[1], 1)))
    return letters


def _pareto_words(point: ParetoPoint, flicker_unit: str, motion_unit: str) -> str:
    sharp = f", sharpness {number(point.sharpness)}" if point.sharpness is not None else ""
    return (
        f"{point.arm}: flicker {number(point.flicker.estimate)} {flicker_unit} "
        f"{interval_text(point.flicker)}, motion {number(point.motion.estimate)} {motion_unit} "
        f"{interval_text(point.motion)}{sharp}"
    )


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _hex(colour: list[int] | tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


# Strip plots as numbers: every pair's difference to the baseline, one row for each setting.


WIDTH, ROW, TOP, BOTTOM = 360.0, 48.0, 6.0, 26.0


@dataclass(frozen=True)
class StripDot:
    """One pair; `anchor` is the card of its clips."""

    at: tuple[float, float]
    anchor: str
    words: str


@dataclass(frozen=True)
class StripRow:
    """One setting of a strip plot; `span` holds low, estimate and high."""

    badge: str
    label: str
    top: float
    dots: tuple[StripDot, ...]
    span: tuple[float, float, float] | None
    tone: Tone
    words: str


@dataclass(frozen=True)
class StripChart:
    """Every pair's difference to the baseline in one metric; `aim`: which way is better, in words."""

    metric: MetricSummary
    aim: str
    rows: tuple[StripRow, ...]
    height: float
    zero: float
    floor: tuple[float, float] | None
    ticks: tuple[Tick, ...]


def pair_differences(summary: ComparisonSummary, metric: str) -> dict[str, dict[tuple[str, int], float]]:
    """Arm → (prompt, seed) → arm minus baseline, where both could be measured; the baseline is left out."""
    values: dict[str, dict[tuple[str, int], float]] = {arm.label: {} for arm in summary.arms}
    for clip in summary.clips:
        measure = clip.measures.get(metric)
        if measure is not None and measure.value is not None and math.isfinite(measure.value):
            values[clip.arm][clip.key] = measure.value
    base = values[summary.baseline]
    return {
        arm: {key: value - base[key] for key, value in own.items() if key in base}
        for arm, own in values.items()
        if arm != summary.baseline
    }


def draw_strip(
    summary: ComparisonSummary, metric: MetricSummary, anchors: Mapping[tuple[str, int], str]
) -> StripChart:
    """Every pair of every setting in one metric, with means, intervals and the ruler."""
    pairs = pair_differences(summary, metric.name)
    badges = arm_badges(summary)
    spans = [entry.span for entry in metric.differences if entry.span]
    floor = metric.noise_floor
    ends = [end for span in [*spans, *([floor] if floor else [])] for end in (span.low, span.high)]
    dots = [value for own in pairs.values() for value in own.values()]
    x = scale_over([*dots, *ends, *(span.estimate for span in spans)], 10.0, WIDTH - 10, zero=True)
    rows = []
    for index, entry in enumerate(metric.differences):
        top = TOP + index * ROW
        rows.append(
            StripRow(
                badge=badges[entry.arm],
                label=entry.arm,
                top=top,
                dots=tuple(
                    StripDot(
                        at=(x(value), round(top + 33 + 13 * (((place * 0.618) % 1) - 0.5), 1)),
                        anchor=anchors.get(key, ""),
                        words=f"{key[0]}, seed {key[1]}: {signed(value)} {metric.unit}",
                    )
                    for place, (key, value) in enumerate(pairs[entry.arm].items())
                ),
                span=_span_marks(x, entry.span),
                tone=tone_of(metric, entry),
                words=f"{signed(entry.span.estimate)} {interval_text(entry.span)}" if entry.span else "—",
            )
        )
    return StripChart(
        metric=metric,
        aim=aim_of(metric),
        rows=tuple(rows),
        height=TOP + len(rows) * ROW + BOTTOM,
        zero=x(0.0),
        floor=floor_band(x, floor, 0.0),
        ticks=round_ticks(x),
    )


def _span_marks(scale: Scale, span: Span | None) -> tuple[float, float, float] | None:
    if span is None or not math.isfinite(span.estimate):
        return None
    low = scale.low if span.low is None else span.low
    high = scale.high if span.high is None else span.high
    return scale(low), scale(span.estimate), scale(high)


# The plots of a comparison as PNG and SVG for papers: drawn alike for alike summaries, down to the byte.


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
                yield f"heat-{metric.name}", _drawn_heat_map(summary, metric)


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


def _drawn_heat_map(summary: ComparisonSummary, metric: MetricSummary) -> Figure:
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
