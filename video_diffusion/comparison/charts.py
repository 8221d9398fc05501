"""The charts of a comparison, each drawn once: as SVG for the page, the same SVG and a PNG for papers."""

import io
import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from video_diffusion.comparison.statistics import GUARDS
from video_diffusion.comparison.summary import (
    ComparisonSummary,
    MetricSummary,
    ParetoPoint,
    Span,
    arm_badges,
)
from video_diffusion.comparison.tables import aim_of, interval_text, tone_of
from video_diffusion.video import write_bytes
from video_diffusion.web import BAD, GOOD, INK, RULE, SOFT, Hint, number, signed, visible

TONES = {"good": GOOD, "bad": BAD, "even": SOFT}
SHARPNESS = LinearSegmentedColormap.from_list(
    "sharpness", ["#5c54b4", "#3478aa", "#2f9e7a", "#a0be46", "#f6be40"], N=9
)
"""From blurred to sharp: each step lighter than the one before, so that it reads without colour too."""
UNKNOWN_SHARPNESS = "#8b94a5"
DOTS_PER_INCH = 200
MAX_LABEL = 48
MOST_DOTS = 200  # in a row of a strip plot: the extremes, and every so many of the rest
WIDTH = 5.0  # inches; on the page as wide as its card
LETTER = 0.078  # inches, about, at the size of the labels

Links = Mapping[tuple[str, int], str]
"""(prompt, seed) → address of the card of its clips."""


@dataclass(frozen=True)
class Chart:
    """One chart: `svg` for the page and for papers, `figure` for the PNG, `hints` for the page alone.

    Attributes:
        name: of its files, such as "strip-flicker".
        metric: that it shows; None for the plane of flicker and motion.
        title, note: above it on the page.
        words: what it shows, read out.
        hints: id of a group of the SVG → what each mark in it tells.
    """

    name: str
    metric: MetricSummary | None
    title: str
    note: str
    words: str
    figure: Figure
    svg: str
    hints: Mapping[str, Sequence[Hint]]


def draw_charts(summary: ComparisonSummary, links: Links) -> list[Chart]:
    """Flicker against motion; a strip of pairs for each metric; heat maps of the main ones over two axes."""
    with paper_style():
        charts = [_pareto(summary)] if summary.pareto else []
        for metric in summary.metrics:
            pairs = pair_differences(summary, metric.name)
            if any(pairs.values()):
                charts.append(_strip(summary, metric, pairs, links))
        if len(summary.axes) == 2:
            charts += [
                _heat_map(summary, metric)
                for metric in summary.metrics
                if metric.role != "other" and any(mean.span for mean in metric.means)
            ]
    return charts


def write_plots(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write every chart as SVG and PNG, down to the byte alike for alike summaries; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with paper_style():
        for chart in charts:
            png = io.BytesIO()
            chart.figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
            for suffix, content in ((".svg", chart.svg.encode()), (".png", png.getvalue())):
                write_bytes(folder / f"{chart.name}{suffix}", content)
                written.append(folder / f"{chart.name}{suffix}")
    return written


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


def _strip(
    summary: ComparisonSummary,
    metric: MetricSummary,
    pairs: Mapping[str, Mapping[tuple[str, int], float]],
    links: Links,
) -> Chart:
    """Every pair's difference to the baseline, a row for each setting, with mean and interval."""
    badges = arm_badges(summary.arms)
    figure, axes = paper_figure(WIDTH, 0.95 + 0.64 * len(metric.differences))
    spans = [entry.span for entry in metric.differences if entry.span]
    floor = metric.noise_floor
    ends = [end for span in (*spans, *([floor] if floor else [])) for end in (span.low, span.high)]
    dots = [value for own in pairs.values() for value in own.values()]
    low, high = _limits([0.0, *dots, *(span.estimate for span in spans), *ends])
    hints: dict[str, Sequence[Hint]] = {}
    words = []
    if floor is not None and floor.low is not None and floor.high is not None:
        axes.axvspan(floor.low, floor.high, color=SOFT, alpha=0.1, linewidth=0, gid="floor")
        hints["floor"] = [Hint("The baseline against itself with other seeds")]
    axes.axvline(0, color=SOFT, linewidth=0.9)
    for row, entry in enumerate(metric.differences):
        badge, colour = badges[entry.arm], TONES[tone_of(metric, entry)]
        shown = _thinned(pairs[entry.arm])
        if shown:
            heights = [row + 0.2 + 0.3 * (((place * 0.618) % 1) - 0.5) for place in range(len(shown))]
            axes.scatter(
                list(shown.values()), heights, s=14, color=INK, alpha=0.32, linewidths=0, gid=f"dots-{badge}"
            )
            hints[f"dots-{badge}"] = [
                Hint(f"{prompt}, seed {seed}: {signed(value)} {metric.unit}", links.get((prompt, seed), ""))
                for (prompt, seed), value in shown.items()
            ]
        said = f"{signed(entry.span.estimate)} {interval_text(entry.span)}" if entry.span else "—"
        if entry.span is not None:
            reach = [
                low if entry.span.low is None else entry.span.low,
                high if entry.span.high is None else entry.span.high,
            ]
            axes.plot(reach, [row + 0.2] * 2, color=colour, marker="|", linewidth=1.6, gid=f"span-{badge}")
            axes.plot(entry.span.estimate, row + 0.2, "o", color=colour, markersize=6, gid=f"mean-{badge}")
            hints |= {f"span-{badge}": [Hint(said)], f"mean-{badge}": [Hint(said)]}
        axes.text(
            0.005, row - 0.2, f"{badge}  {_label(entry.arm)}", transform=axes.get_yaxis_transform(),
            va="center", color=SOFT, parse_math=False,
        )  # fmt: skip
        words.append(f"{entry.arm} {said}. ")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_yticks([])
    axes.set_ylim(len(metric.differences) - 0.5, -0.5)
    axes.set_xlim(low, high)
    axes.spines["left"].set_visible(False)
    aim = f"; {aim_of(metric)}" if aim_of(metric) else ""
    below = textwrap.wrap(f"{_name(metric)}: difference to the baseline, {metric.unit}", 52)
    axes.set_xlabel("\n".join(below))
    figure.set_figheight(figure.get_figheight() + 0.17 * (len(below) - 1))
    height = figure.get_figheight()
    figure.subplots_adjust(0.02, (0.41 + 0.17 * len(below)) / height, 0.98, 1 - 0.04 / height)
    most = max(len(own) for own in pairs.values())
    dots_note = f" {MOST_DOTS} of {most} dots are drawn, the extremes among them." if most > MOST_DOTS else ""
    return _chart(
        f"strip-{metric.name}", metric, _name(metric).capitalize(),
        f"Each dot is a pair: difference to the baseline ({metric.unit}{aim}).{dots_note}",
        "".join(words), figure, hints,
    )  # fmt: skip


def _pareto(summary: ComparisonSummary) -> Chart:
    """Flicker to the right, motion up, a letter for each setting, sharpness as colour."""
    points = summary.pareto
    flicker, motion = (next(m for m in summary.metrics if m.name == name) for name in ("flicker", "motion"))
    badges = arm_badges(summary.arms)
    sharp = sorted(point.sharpness for point in points if point.sharpness is not None)
    norm = BoundaryNorm([sharp[0] + (sharp[-1] - sharp[0]) * k / 9 for k in range(10)], 9) if (
        sharp and sharp[-1] > sharp[0]
    ) else None  # fmt: skip
    figure, axes = paper_figure(WIDTH, 3.9 + 0.2 * len(points))
    room = 0.2 * len(points) + 0.65
    figure.subplots_adjust(
        0.13, room / figure.get_figheight(), 0.87 if norm else 0.98, 1 - 0.06 / figure.get_figheight()
    )
    axes.set_xlim(*plane_limits([point.flicker for point in points]))
    axes.set_ylim(*plane_limits([point.motion for point in points]))
    base = next((point for point in points if point.is_baseline), None)
    floor = flicker.noise_floor
    hints: dict[str, Sequence[Hint]] = {}
    if base is not None and floor is not None and floor.low is not None and floor.high is not None:
        around = base.flicker.estimate
        axes.axvspan(around + floor.low, around + floor.high, color=SOFT, alpha=0.1, linewidth=0, gid="floor")
        hints["floor"] = [Hint("The baseline against itself with other seeds")]
    has_morph = points[0].morph is not None
    front = sorted((p.flicker.estimate, p.motion.estimate) for p in points if p.on_front)
    if len(front) > 1 and not has_morph:
        axes.plot([x for x, _ in front], [y for _, y in front], "--", color=SOFT, linewidth=1, gid="front")
        hints["front"] = [Hint("No setting is better in both")]
    letters = free_places([_at(axes, point) for point in points])
    words = []
    for point, letter in zip(points, letters, strict=True):
        badge, place = badges[point.arm], (point.flicker.estimate, point.motion.estimate)
        said = _pareto_words(point, flicker.unit, motion.unit)
        words.append(f"{said}. ")
        x, y = place
        axes.plot(_reach(point.flicker, axes.get_xlim()), (y, y), color=SOFT, alpha=0.55, zorder=2)
        axes.plot((x, x), _reach(point.motion, axes.get_ylim()), color=SOFT, alpha=0.55, zorder=2)
        if point.is_baseline:
            axes.plot(*place, "o", markersize=12, markerfacecolor="none", color=INK, zorder=4)
        colour = UNKNOWN_SHARPNESS
        if point.sharpness is not None:
            colour = to_hex(SHARPNESS(norm(point.sharpness) if norm else 4))
        axes.plot(
            *place,
            "*" if point.on_front else "o",
            markersize=13 if point.on_front else 8,
            color=colour,
            markeredgecolor="white",
            zorder=4,
            gid=f"mark-{badge}",
        )
        axes.annotate(
            badge, place, letter, textcoords="figure points", ha="center", va="center", weight="bold",
            zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.7},
        )  # fmt: skip
        hints[f"mark-{badge}"] = [Hint(said)]
    axes.set_xlabel(f"flicker, {flicker.unit}")
    axes.set_ylabel(f"motion, {motion.unit}")
    for row, point in enumerate(points):
        top = room - 0.68 - 0.2 * row
        figure.text(
            0.03, max(top, 0.03) / figure.get_figheight(),
            f"{badges[point.arm]}  {_label(point.arm)}{' (baseline, ringed)' if point.is_baseline else ''}",
            parse_math=False, color=INK,
        )  # fmt: skip
    if norm is not None:
        side = figure.add_axes((0.89, room / figure.get_figheight() + 0.1, 0.02, 0.45))
        bar = figure.colorbar(ScalarMappable(norm, SHARPNESS), cax=side, ticks=[sharp[0], sharp[-1]])
        bar.ax.set_yticklabels([number(sharp[0]), number(sharp[-1])])
        bar.set_label("sharpness", labelpad=-8)
        bar.outline.set_visible(False)
    return _chart(
        "pareto", None, "Flicker against motion",
        "To the left less flicker, upwards more motion. Bars are intervals; at the frame they go on. Stars "
        f"are the best so far: none is better in {'flicker, morph and motion' if has_morph else 'both'}.",
        "".join(words), figure, hints,
    )  # fmt: skip


def _heat_map(summary: ComparisonSummary, metric: MetricSummary) -> Chart:
    """The means of a two-axis grid, each in its place: green is better than the baseline, red worse."""
    down, across = summary.axes
    badges = arm_badges(summary.arms)
    means = {mean.arm: mean.span.estimate for mean in metric.means if mean.span}
    base = means.get(summary.baseline)
    better = {"lower": -1, "higher": 1, "neither": GUARDS.get(metric.name, 0)}[metric.direction]
    changes = {arm: better * (mean - base) for arm, mean in means.items()} if base is not None else {}
    most = max((abs(change) for change in changes.values()), default=0.0)
    columns, rows = ([textwrap.fill(_label(v), 13) for v in axis.values] for axis in (across, down))
    left = 0.5 + LETTER * max(len(line) for row in rows for line in row.split("\n"))
    bottom = 0.5 + 0.17 * max(column.count("\n") + 1 for column in columns)
    width, height = left + 0.95 * len(across.values), bottom + 0.55 * len(down.values) + 0.05
    figure, axes = paper_figure(width, height)
    figure.subplots_adjust(left / width, bottom / height, 1 - 0.02 / width, 1 - 0.05 / height)
    hints: dict[str, Sequence[Hint]] = {}
    words = []
    for arm in summary.arms:
        if arm.place.get(down.name) not in down.values or arm.place.get(across.name) not in across.values:
            continue
        column, row = across.values.index(arm.place[across.name]), down.values.index(arm.place[down.name])
        change = changes.get(arm.label, 0.0)
        says_nothing = metric.direction == "neither" and change > 0  # a guard may rise: that is no merit
        share = 0.0 if says_nothing or not most else abs(change) / most
        gid = f"cell-{badges[arm.label]}"
        axes.add_patch(
            Rectangle(
                (column - 0.47, row - 0.46), 0.94, 0.92, facecolor=GOOD if change > 0 else BAD,
                alpha=round(0.03 + 0.5 * share, 3), linewidth=0, gid=gid,
            )
        )  # fmt: skip
        if arm.is_baseline:
            frame = Rectangle(
                (column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=INK, gid="is-baseline"
            )
            axes.add_patch(frame)
        axes.text(column, row + 0.08, number(means.get(arm.label)), ha="center", va="center", weight="bold")
        axes.text(column - 0.42, row - 0.28, badges[arm.label], va="center", fontsize=8, color=SOFT)
        hints[gid] = [Hint(f"{arm.label}: {number(means.get(arm.label))} {metric.unit}")]
        words.append(f"{hints[gid][0].words}. ")
    axes.set_xlim(-0.5, len(across.values) - 0.5)
    axes.set_ylim(len(down.values) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set_xlabel(_label(across.name), parse_math=False)
    axes.set_ylabel(_label(down.name), parse_math=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    side = "smaller" if better < 0 else "larger"
    if metric.direction == "neither":
        scale = f"Red: {'larger' if better < 0 else 'smaller'} than the baseline's"
    else:
        scale = f"Green: better ({side}) than the baseline's, red: worse"
    return _chart(
        f"heat-{metric.name}", metric, f"{_name(metric).capitalize()} over the grid",
        f"Mean in {metric.unit}. Framed: the baseline. {scale}; full colour: by {number(most)}.",
        "".join(words), figure, hints,
    )  # fmt: skip


def _chart(
    name: str,
    metric: MetricSummary | None,
    title: str,
    note: str,
    words: str,
    figure: Figure,
    hints: Mapping[str, Sequence[Hint]],
) -> Chart:
    return Chart(name, metric, title, note, words, figure, svg_of(figure), hints)


def svg_of(figure: Figure) -> str:
    """The SVG of a figure, without its date."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def paper_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure that needs no screen, in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


@contextmanager
def paper_style() -> Iterator[None]:
    """Plain fonts, texts that stay texts in SVG, and the same bytes for the same plot."""
    with rc_context(), warnings.catch_warnings():
        rcdefaults()
        rcParams["svg.hashsalt"] = "video-diffusion"
        rcParams["svg.fonttype"] = "none"
        rcParams["font.size"] = 10.5
        rcParams["axes.edgecolor"] = SOFT
        rcParams["axes.labelcolor"] = INK
        rcParams["xtick.color"] = rcParams["ytick.color"] = SOFT
        rcParams["text.color"] = INK
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font", UserWarning
        )  # scripts of all the world
        yield


def _limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Ends of an axis with some room beside the values."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = 0.06 * (high - low) if high - low > 1e-9 * max(abs(low), abs(high)) else abs(high) / 10 or 1.0
    return low - room, high + room


def plane_limits(spans: Sequence[Span]) -> tuple[float, float]:
    """An axis that holds every mean, and of the intervals no more than half the means' range on each side."""
    means = [span.estimate for span in spans]
    low, high = min(means), max(means)
    room = (high - low) / 2 if high > low else math.inf
    ends = [end for span in spans for end in (span.low, span.high) if end is not None]
    values = [*means, *(min(max(end, low - room), high + room) for end in ends)]
    return _limits([*values, *([0.0] if 0 <= min(values) < 0.5 * max(values) else [])])


def _reach(span: Span, limits: tuple[float, float]) -> tuple[float, float]:
    """The interval as far as the axis goes; an open end reaches its edge."""
    low, high = limits
    return (
        low if span.low is None else max(low, span.low),
        high if span.high is None else min(high, span.high),
    )


def _at(axes: Axes, point: ParetoPoint) -> tuple[float, float]:
    """Where a setting lies, in points from the figure's lower left corner."""
    x, y = axes.transData.transform((point.flicker.estimate, point.motion.estimate))
    points_per_pixel = 72 / axes.figure.dpi
    return float(x) * points_per_pixel, float(y) * points_per_pixel


def free_places(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """For each point a place for its letter, away from the other points and the letters placed before."""
    taken = list(places)
    letters = []
    for left, top in places:
        around = [
            (left + 12 * math.cos(turn * math.pi / 4), top + 12 * math.sin(turn * math.pi / 4))
            for turn in (1, 3, 7, 5, 0, 4, 2, 6)
        ]
        best = max(around, key=lambda spot: round(min(15.0, *(math.dist(spot, other) for other in taken)), 3))
        taken.append(best)
        letters.append((round(best[0], 1), round(best[1], 1)))
    return letters


def _thinned(pairs: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """At most `MOST_DOTS` pairs: the extremes, and every so many of the rest."""
    if len(pairs) <= MOST_DOTS:
        return dict(pairs)
    ranked = sorted(pairs, key=lambda key: pairs[key])
    ends = MOST_DOTS // 4
    rest = ranked[ends:-ends]
    every = math.ceil(len(rest) / (MOST_DOTS - 2 * ends))
    kept = {*ranked[:ends], *rest[::every], *ranked[-ends:]}
    return {key: value for key, value in pairs.items() if key in kept}


def _pareto_words(point: ParetoPoint, flicker_unit: str, motion_unit: str) -> str:
    morph = f", morph {number(point.morph.estimate)} {motion_unit}" if point.morph is not None else ""
    sharp = f", sharpness {number(point.sharpness)}" if point.sharpness is not None else ""
    return (
        f"{point.arm}: flicker {number(point.flicker.estimate)} {flicker_unit} "
        f"{interval_text(point.flicker)}, motion {number(point.motion.estimate)} {motion_unit} "
        f"{interval_text(point.motion)}{morph}{sharp}"
    )


def _name(metric: MetricSummary) -> str:
    return metric.name.replace("_", " ")


def _label(text: str) -> str:
    shown = str(visible(text)).replace("\n", " ")
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"
