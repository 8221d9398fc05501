"""Scales and line charts as numbers: where every mark goes; templates draw them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Scale:
    """A linear scale.

    Attributes:
        low, high: values at the ends; low < high.
        start, stop: their pixels; stop may be less than start, for an axis that points up.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, rounded to a hundredth; values beyond the ends lie at the ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)

    def ticks(self, count: int = 5) -> tuple[float, ...]:
        """About `count` round values within the scale: steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(round(index * step, 12) for index in range(first, last + 1))


def scale_over(
    values: Iterable[float | None], start: float, stop: float, *, margin: float = 0.06, zero: bool = False
) -> Scale:
    """A scale that holds all values with some room on both sides.

    Args:
        values: None, NaN and infinity are left out; without any, the scale is 0 to 1.
        start: pixel of its low end.
        stop: pixel of its high end.
        margin: room on each side as a share of the range.
        zero: whether 0 must be on it.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    finite += [0.0] if zero or not finite else []
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(high) / 10 or 1.0
        return Scale(low - room, high + room, start, stop)
    room = margin * (high - low)
    return Scale(low - room, high + room, start, stop)


# A chart of lines, for losses and measures over time: where every mark goes; `line_chart.html` draws it.


WIDTH, HEIGHT = 520.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 46.0
MOST_POINTS = 400

Point: TypeAlias = tuple[int | float, float]


@dataclass(frozen=True)
class Line:
    """A named line.

    Attributes:
        points: (x, y) with growing x; a y that is not finite leaves a hole.
        faint: drawn in the background, such as the raw values behind a smoothed line.
    """

    name: str
    points: Sequence[Point]
    faint: bool = False


@dataclass(frozen=True)
class DrawnLine:
    """An SVG path; `number` tells lines apart (style, not only colour), 0 for a faint one."""

    name: str
    path: str
    number: int
    last: str


@dataclass(frozen=True)
class LineChart:
    """Marks in a box of `WIDTH` by `HEIGHT`; ticks are (pixel, text)."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def draw_line_chart(
    title: str, lines: Sequence[Line], *, x_label: str, y_label: str, log: bool = False
) -> LineChart:
    """Fits the lines into one box.

    Args:
        title: above the chart.
        lines: of more than `MOST_POINTS` points, each stretch is drawn by its lowest and highest value, so
            that no peak is lost.
        x_label: with its unit.
        y_label: with its unit.
        log: whether y is logarithmic; values of 0 and less then leave holes.
    """

    def y_value(y: float) -> float:
        if log:
            return math.log10(y) if y > 0 and math.isfinite(y) else math.nan
        return y

    points = [[(float(x), y_value(y)) for x, y in _thinned(line.points)] for line in lines]
    every = [point for line in points for point in line if math.isfinite(point[1])]
    x_scale = scale_over([x for x, _ in every], LEFT, WIDTH - RIGHT, margin=0.0)
    y_scale = scale_over([y for _, y in every], HEIGHT - BOTTOM, TOP)
    numbers = iter(range(1, len(lines) + 1))
    return LineChart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=tuple(
            DrawnLine(
                name=line.name,
                path=_path(own, x_scale, y_scale),
                number=0 if line.faint else next(numbers),
                last=next((f"{y:.4g}" for _, y in reversed(line.points) if math.isfinite(y)), "—"),
            )
            for line, own in zip(lines, points, strict=True)
        ),
        x_ticks=_ticks(x_scale, 5),
        y_ticks=_log_ticks(y_scale)
        if log
        else tuple((y_scale(tick), f"{tick:g}") for tick in y_scale.ticks(4)),
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    every = math.ceil(2 * len(points) / MOST_POINTS)
    if every <= 2:
        return list(points)
    kept: list[Point] = []
    for start in range(0, len(points), every):
        stretch = [point for point in points[start : start + every] if math.isfinite(point[1])]
        if not stretch:
            kept.append((points[start][0], math.nan))
            continue
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _path(points: Sequence[Point], x_scale: Scale, y_scale: Scale) -> str:
    steps, drawing = [], False
    for x, y in points:
        if math.isfinite(y):
            steps.append(f"{'L' if drawing else 'M'}{x_scale(x):g} {y_scale(y):g}")
        drawing = math.isfinite(y)
    return "".join(steps)


def _ticks(scale: Scale, count: int) -> tuple[tuple[float, str], ...]:
    return tuple((scale(tick), f"{tick:g}") for tick in scale.ticks(count))


def _log_ticks(scale: Scale) -> tuple[tuple[float, str], ...]:
    """Powers of ten and, in a narrow range, their doubles and fives."""
    wide = scale.high - scale.low > 2
    values = [
        factor * 10.0**power
        for power in range(math.floor(scale.low), math.ceil(scale.high) + 1)
        for factor in ((1,) if wide else (1, 2, 5))
    ]
    return tuple(
        (scale(math.log10(value)), f"{value:g}")
        for value in values
        if scale.low <= math.log10(value) <= scale.high
    )
