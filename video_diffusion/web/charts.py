"""Charts on a page: matplotlib's SVG made at home in it; scales and line charts that templates draw."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree import ElementTree

from markupsafe import Markup

from video_diffusion.web.page import visible

INK, SOFT, RULE = "#1d2433", "#565f70", "#e2e5e9"
GOOD, BAD = "#1c7a4d", "#b93434"
PAGE_COLOURS = {
    INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)", GOOD: "var(--good)", BAD: "var(--bad)",
    "#ffffff": "var(--surface)",
}  # fmt: skip
"""What a chart for paper is drawn in → the page's own colour, which is another in the dark."""


@dataclass(frozen=True)
class Hint:
    """What a mark of a chart tells when it is pointed at, and the address that it leads to, "" for none."""

    words: str
    href: str = ""


def inline_svg(svg: str, name: str, words: str, hints: Mapping[str, Sequence[Hint]]) -> Markup:
    """An SVG of matplotlib as an element of a page: in the page's colours and font, its marks with hints.

    The page's policy forbids style attributes, so they become attributes of presentation.

    Args:
        svg: whole file, texts kept as texts.
        name: unique on the page; ids begin with it.
        words: what the chart shows, read out.
        hints: id of a group → a hint for each mark in it (for the group, if there is one alone). The group's
            class is its id up to the first "-".
    """
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in {"metadata", "style"}:
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        given = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        given |= _presentation(given.pop("style", ""))
        for key, value in given.items():
            if key == "id":
                given[key] = f"{name}-{value}"
            elif value.startswith(("#", "url(#")) and key in {"href", "clip-path"}:
                given[key] = value.replace("#", f"#{name}-")
        element.attrib.clear()
        element.attrib.update(given)
    for group in list(root.iter("g")):
        gid = group.get("id", "").removeprefix(f"{name}-")
        if gid in hints:
            group.set("class", gid.split("-")[0])
            _tell(group, hints[gid])
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {
        "class": "chart", "viewBox": box, "role": "group" if hints else "img", "aria-label": visible(words),
        "stroke-linejoin": "round", "stroke-linecap": "butt",
    }  # fmt: skip
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _presentation(style: str) -> dict[str, str]:
    """A style attribute as attributes, colours as the page's."""
    found: dict[str, str] = {}
    for part in style.split(";"):
        key, _, value = (text.strip() for text in part.partition(":"))
        if key == "font":  # "bold 9px 'DejaVu Sans', …": the family is the page's
            before, size, _ = value.partition("px ")
            *weight, number = before.split()
            found |= {"font-size": number + size.strip()} | ({"font-weight": weight[0]} if weight else {})
        elif key and key != "font-family":
            found[key] = PAGE_COLOURS.get(value, value)
    return found


def _tell(group: ElementTree.Element, hints: Sequence[Hint]) -> None:
    """A title in the group, or in each of its marks, which then are links where there is an address."""
    if len(hints) == 1 and not hints[0].href:
        title = ElementTree.Element("title")
        title.text = visible(hints[0].words)
        group.insert(0, title)
        return
    marks = [
        (parent, mark)
        for parent in group.iter()
        if parent.tag != "defs"
        for mark in parent
        if mark.tag in {"use", "path"} and parent.tag != "a"
    ]
    for (parent, mark), hint in zip(marks, hints, strict=True):
        link = ElementTree.Element("a", {"href": hint.href, "tabindex": "-1"} if hint.href else {})
        title = ElementTree.SubElement(mark, "title")
        title.text = visible(hint.words)
        mark.set("class", "dot")
        parent[list(parent).index(mark)] = link
        link.append(mark)


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
        step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
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
