"""Flicker against motion as numbers: where every mark of the plot goes. Templates draw, styles colour."""

import math
from dataclasses import dataclass

from video_diffusion.comparison.report_axes import Tick, floor_band, round_ticks
from video_diffusion.comparison.report_table import arm_badges, interval_text
from video_diffusion.comparison.summary import ComparisonSummary, ParetoPoint, Span
from video_diffusion.web import Scale, number, scale_over

WIDTH, HEIGHT = 520.0, 400.0
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
    x = plane_axis([point.flicker for point in points], 58.0, WIDTH - 18)
    y = plane_axis([point.motion for point in points], HEIGHT - 52, 16.0)
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
