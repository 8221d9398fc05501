"""What a measurement returns, and how a metric walks along a clip to get there.

`look` turns a view (large: images, flow) into a row (a few numbers) and touches nothing else. `add` takes
the rows of one shot in order, some time later, when it is known where the cuts are. So a metric never meets
a cut, and a clip of any length needs the images of three frames.
"""

import html
import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from jaxtyping import Float64

from video_diffusion.metrics.views import Frame, Pair, Triple


class Series:
    """Numbers at rising frame numbers. Stretches of consecutive frames store only where they start."""

    def __init__(self) -> None:
        self._values = array("d")
        self._stretches: list[tuple[int, int]] = []  # first frame, place of its number

    def __len__(self) -> int:
        return len(self._values)

    def add(self, index: int, value: float) -> None:
        """Put `value` at frame `index`, which lies after all others."""
        if not self._stretches or index != self._after_last():
            self._stretches.append((index, len(self._values)))
        self._values.append(value)

    def _after_last(self) -> int:
        first, place = self._stretches[-1]
        return first + len(self._values) - place

    @property
    def values(self) -> Float64[np.ndarray, "entries"]:
        """The numbers in their order."""
        return np.array(self._values, dtype=np.float64)

    def mean(self) -> float:
        """Mean of the numbers, NaN when there are none."""
        return float(self.values.mean()) if self._values else float("nan")

    def replaced(self, change: Callable[[Float64[np.ndarray, "entries"]], Sequence[float]]) -> "Series":
        """Return a series of other numbers at the same frames."""
        other = Series()
        other._stretches, other._values = list(self._stretches), array("d", change(self.values))
        return other

    def by_frame(self) -> dict[int, float]:
        """Frame number → number."""
        numbers: dict[int, float] = {}
        end = len(self._values)
        for first, place in reversed(self._stretches):
            numbers.update((first + step, self._values[place + step]) for step in range(end - place))
            end = place
        return dict(sorted(numbers.items())) if len(self._stretches) > 1 else numbers


Status: TypeAlias = Literal["ok", "static", "unmeasurable", "too_short", "has_cut"]
Direction: TypeAlias = Literal["lower", "higher", "neither"]

SCHEMA_VERSION = 1
"""Of the JSON form; it rises when a field changes its meaning or goes away."""

BESIDE_FLICKER = ("motion", "sharpness", "mean_luma")
"""A frozen, blurred or black clip has little flicker, so whoever shows flicker shows these beside it."""


@dataclass(frozen=True)
class Reading:
    """What one metric read off a clip, before its name, unit and direction are put to it.

    Attributes:
        value: None when there is nothing that could honestly be given.
        status: ok; static (no change to judge); unmeasurable (too little believable flow, or the rule in
            `note`); too_short; has_cut (measured within the shots, nothing across a cut).
        series: values by frame; that of two frames stands at the later, that of three at the middle one.
            None for a metric without a series.
        coverage: share of pixels with believable flow, None for a metric without flow.
        details: further numbers by name, each explained in docs/metrics.md.
        note: why there is no value, or what to know about it; empty when there is nothing to say.
    """

    value: float | None
    status: Status
    series: Series | None = None
    coverage: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """One metric of one clip.

    Attributes:
        value: in `unit`; None when the status says why there is none.
        direction: which way is better; "neither" for what only describes, such as motion.
        series: one entry for each of the report's `frame_numbers`; None where the metric has nothing at
            that frame.
        status, coverage, details, note: as in `Reading`.
    """

    value: float | None
    unit: str
    direction: Direction
    group: str
    status: Status
    series: tuple[float | None, ...]
    coverage: float | None
    details: Mapping[str, float]
    note: str

    @property
    def told(self) -> str:
        """The value with its unit, or why there is none."""
        return self.status if self.value is None else f"{self.value:.4g} {self.unit}"

    def to_json(self, series: bool = True) -> dict[str, Any]:
        """Return plain JSON values; NaN and infinity become None. `series=False` leaves the long list out."""
        plain: dict[str, Any] = {
            "value": _finite(self.value),
            "unit": self.unit,
            "status": self.status,
            "direction": self.direction,
            "group": self.group,
            "coverage": _finite(self.coverage),
            "details": {name: _finite(value) for name, value in self.details.items()},
        }
        if self.note:
            plain["note"] = self.note
        if series and self.series:
            plain["series"] = [_finite(value) for value in self.series]
        return plain


@dataclass(frozen=True)
class ConsistencyReport:
    """How well the frames of one clip hold together.

    Attributes:
        num_frames: of the clip, also where only some were measured.
        fps: frames per second of the clip.
        width, height: in pixels.
        flow: name of the optical flow method.
        frame_numbers: the frames measured, all of them unless the clip was sampled.
        values: metric name → Measure, in the order of `ALL_METRICS`.
        held_frames: how many of the measured frames repeat the one before; every measure but
            `duplicate_pairs` is that of the others.
        distinct_fps: frames per second without these.
        repeats: how often each distinct frame is shown, as words; empty where none repeats.

    >>> from video_diffusion.metrics import measure
    >>> report = measure(np.zeros((3, 64, 64, 3), np.uint8), fps=8)
    >>> report.num_frames, report.values["mean_luma"].value
    (3, 0.0)
    """

    num_frames: int
    fps: Fraction
    width: int
    height: int
    flow: str
    frame_numbers: Sequence[int]
    values: Mapping[str, Measure]
    held_frames: int = 0
    distinct_fps: Fraction | None = None
    repeats: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def __reduce__(self) -> tuple[Any, ...]:
        # a mapping proxy cannot be pickled, and worker processes send reports
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return type(self), tuple((values | {"values": dict(self.values)}).values())

    def __repr__(self) -> str:
        told = (
            f"{name} {self.values[name].told}"
            for name in ("flicker", "morph", "motion")
            if name in self.values
        )
        return f"<ConsistencyReport of {self.num_frames} frames: {', '.join(told)}>"

    def _repr_html_(self) -> str:
        """The measures as a table."""
        rows = "".join(
            f"<tr><td>{html.escape(each.group)}</td><td>{html.escape(name)}</td>"
            f"<td>{html.escape(each.told)}</td><td>{html.escape(each.note)}</td></tr>"
            for name, each in self.values.items()
        )
        return f"<table><tr><th>group</th><th>measure</th><th>value</th><th></th></tr>{rows}</table>"

    def to_json(self, series: bool = True) -> dict[str, Any]:
        """Return a dictionary of plain JSON values, for `json.dumps` or a run record."""
        plain: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "num_frames": self.num_frames,
            "fps": float(self.fps),
            "width": self.width,
            "height": self.height,
            "flow": self.flow,
            "metrics": {name: measure.to_json(series) for name, measure in self.values.items()},
        }
        if len(self.frame_numbers) != self.num_frames:
            plain["frame_numbers"] = list(self.frame_numbers)
        if self.held_frames:
            plain |= {"held_frames": self.held_frames, "distinct_fps": float(self.distinct_fps or self.fps)}
        return plain

    def held_note(self) -> str:
        """Return in words how often frames are held, or nothing."""
        if not self.held_frames:
            return ""
        distinct = len(self.frame_numbers) - self.held_frames
        rate = f"{float(self.distinct_fps or self.fps):.4g}"
        return f"{self.repeats}; measured on the {distinct} distinct ones, {rate} per second"

    def table(self) -> str:
        """Return a table for a terminal, one metric to a line under its group, without a final newline."""
        rate = f"{float(self.fps):.6g}"
        lines = [
            f"{self.num_frames} frames of {self.width}×{self.height} at {rate} per second, flow: {self.flow}"
        ]
        if len(self.frame_numbers) != self.num_frames:
            lines.append(f"measured on {len(self.frame_numbers)} of them")
        if self.held_frames:
            lines.append(self.held_note())
        group = ""
        for name, measure in self.values.items():
            if measure.group != group:
                group = measure.group
                lines.append(group)
            better = "" if measure.direction == "neither" else f"{measure.direction} is better"
            note = f"  ({measure.note})" if measure.note else ""
            number = f"{name:<16}{format_value(measure.value):>10}"
            lines.append(f"  {number}  {measure.unit:<18}{measure.status:<13}{better}{note}".rstrip())
        return "\n".join(lines)


def format_value(value: float | None) -> str:
    """Return a number in at most 9 characters, or — where there is none."""
    return "—" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class ClipFacts:
    """What is known about a clip when the walk is over.

    Attributes:
        num_frames: distinct frames measured.
        fps: distinct frames per second.
        complete: whether every frame was measured.
        uniform: whether the distinct frames are also evenly spaced in time, to within one frame as shown.
        cuts: first frame of each shot but the first.
        flashes: frames that differ from both neighbours while those agree with each other.
        coverage: share of pixels with believable flow, per pair, pairs across a cut left out.
        change: mean absolute difference in levels, per pair, pairs across a cut left out.
        window_starts: first frames of the context windows that made the clip, if known.
        shown_change: as `change`, of every frame as it is shown, across cuts and to held frames too.
    """

    num_frames: int
    fps: Fraction
    complete: bool
    uniform: bool
    cuts: tuple[int, ...]
    flashes: tuple[int, ...]
    coverage: Series
    change: Series
    window_starts: tuple[int, ...]
    shown_change: Series

    @property
    def frozen(self) -> bool:
        """Whether every frame equals the next, bit for bit."""
        return len(self.change) > 0 and not self.change.values.any()

    def status(self, entries: int, coverage: float | None = None) -> Status:
        """Return the status of a metric with so many frames, pairs or triples to judge and that coverage."""
        if entries == 0:
            return "too_short"
        if self.frozen:
            return "static"
        if coverage is not None and coverage < LEAST_COVERAGE:
            return "unmeasurable"
        return "has_cut" if self.cuts else "ok"


LEAST_COVERAGE = 0.5
"""Below this share of pixels with believable flow, what is left does not speak for the clip."""


class Accumulator(ABC):
    """One metric on its walk along one clip."""

    view: ClassVar[type[Frame] | type[Pair] | type[Triple]]
    """What it looks at. A row of a pair stands at the later frame, that of a triple at the middle one."""
    needs_shots: ClassVar[bool] = True
    """Whether it must know where the cuts are, which takes optical flow."""

    @abstractmethod
    def look(self, view: Any) -> Any:
        """Return the row of one view. Must not change the accumulator."""

    @abstractmethod
    def add(self, index: int, row: Any) -> None:
        """Take the row at frame `index`; rows come in order, those that touch a cut do not come."""

    def new_shot(self) -> None:  # noqa: B027  # a metric that judges each row by itself has nothing to do here
        """A cut, or frames left out: what comes next does not continue what came before."""

    @abstractmethod
    def result(self, clip: ClipFacts) -> Reading:
        """Return what was read off the clip."""


class SeriesAccumulator(Accumulator):
    """A metric whose row is one number: remembers them all."""

    def __init__(self) -> None:
        self.series = Series()

    def add(self, index: int, row: float) -> None:
        """Remember the number."""
        self.series.add(index, row)
