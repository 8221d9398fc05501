"""The charts of the page as numbers: where every mark goes. Templates draw them, styles colour them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from video_diffusion.comparison.report_table import Tone, aim_of, arm_badges, interval_text, tone_of
from video_diffusion.comparison.summary import ComparisonSummary, MetricSummary, ParetoPoint, Span
from video_diffusion.web import Scale, number, scale_over, signed

PARETO_WIDTH, PARETO_HEIGHT = 520.0, 400.0
STRIP_WIDTH, STRIP_ROW, STRIP_TOP, STRIP_BOTTOM = 360.0, 48.0, 6.0, 26.0
HEAT_CELL_WIDTH, HEAT_CELL_HEIGHT = 76.0, 44.0
SHARPNESS_COLOURS = ((92, 84, 180), (52, 120, 170), (47, 158, 122), (160, 190, 70), (246, 190, 64))
"""From blurred to sharp: each step lighter than the one before, so that it reads without colour too."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


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


def draw_pareto(summary: ComparisonSummary) -> ParetoChart | None:
    """Flicker against motion, None when no setting has both."""
    points = [point for point in summary.pareto if _finite(point.flicker.estimate, point.motion.estimate)]
    flicker, motion = summary.metric("flicker"), summary.metric("motion")
    if not points or flicker is None or motion is None:
        return None
    x = _axis([point.flicker for point in points], 58.0, PARETO_WIDTH - 18)
    y = _axis([point.motion for point in points], PARETO_HEIGHT - 52, 16.0)
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
        x_ticks=_ticks(x),
        y_ticks=_ticks(y),
        x_unit=flicker.unit,
        y_unit=motion.unit,
        floor=_floor(x, flicker.noise_floor, base.flicker.estimate) if base else None,
        sharpness=(number(low), number(high)) if sharp and high > low else None,
        stops=tuple(
            (number(index / (len(SHARPNESS_COLOURS) - 1)), _hex(colour))
            for index, colour in enumerate(SHARPNESS_COLOURS)
        ),
    )


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
    x = scale_over([*dots, *ends, *(span.estimate for span in spans)], 10.0, STRIP_WIDTH - 10, zero=True)
    rows = []
    for index, entry in enumerate(metric.differences):
        top = STRIP_TOP + index * STRIP_ROW
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
        height=STRIP_TOP + len(rows) * STRIP_ROW + STRIP_BOTTOM,
        zero=x(0.0),
        floor=_floor(x, floor, 0.0),
        ticks=_ticks(x),
    )


def draw_heat_maps(summary: ComparisonSummary) -> list[HeatMap]:
    """For a grid of two axes: the headline and the guards, each a map of means; else nothing."""
    if len(summary.axes) != 2:
        return []
    return [
        _heat_map(summary, metric)
        for metric in summary.metrics
        if metric.role != "other" and any(mean.span for mean in metric.means)
    ]


def sharpness_colour(value: float | None, low: float, high: float) -> str:
    """The colour of a sharpness between the lowest and the highest; grey where it is unknown."""
    if value is None or not math.isfinite(value):
        return "#8b94a5"
    share = (value - low) / (high - low) if high > low else 0.5
    place = min(max(share, 0.0), 1.0) * (len(SHARPNESS_COLOURS) - 1)
    first = min(int(place), len(SHARPNESS_COLOURS) - 2)
    below, above = SHARPNESS_COLOURS[first], SHARPNESS_COLOURS[first + 1]
    return _hex([round(a + (place - first) * (b - a)) for a, b in zip(below, above, strict=True)])


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
                at=(left + column * HEAT_CELL_WIDTH, 24 + row * HEAT_CELL_HEIGHT),
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
            Tick(left + (index + 0.5) * HEAT_CELL_WIDTH, text) for index, text in enumerate(across.values)
        ),
        rows=tuple(
            Tick(24 + (index + 0.5) * HEAT_CELL_HEIGHT, text) for index, text in enumerate(down.values)
        ),
        cells=tuple(cells),
        left=left,
        width=left + len(across.values) * HEAT_CELL_WIDTH + 2,
        height=24 + len(down.values) * HEAT_CELL_HEIGHT + 2,
    )


def _axis(spans: list[Span], start: float, stop: float) -> Scale:
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


def _ticks(scale: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(scale(value), f"{value:g}".replace("-", "−")) for value in scale.ticks())


def _ends(scale: Scale, span: Span) -> tuple[float, float] | None:
    return None if span.low is None or span.high is None else (scale(span.low), scale(span.high))


def _span_marks(scale: Scale, span: Span | None) -> tuple[float, float, float] | None:
    if span is None or not math.isfinite(span.estimate):
        return None
    low = scale.low if span.low is None else span.low
    high = scale.high if span.high is None else span.high
    return scale(low), scale(span.estimate), scale(high)


def _floor(scale: Scale, floor: Span | None, around: float) -> tuple[float, float] | None:
    if floor is None or floor.low is None or floor.high is None:
        return None
    return scale(around + floor.low), scale(around + floor.high)


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
