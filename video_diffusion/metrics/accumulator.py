"""How a metric walks along a clip: it looks at a frame, a pair or a triple at a time and remembers numbers.

`look` turns a view (large: pictures, flow) into a row (a few numbers) and touches nothing else. `add` takes
the rows of one shot in order, some time later, when it is known where the cuts are. So a metric never meets
a cut, and a clip of any length needs the pictures of three frames.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from video_diffusion.metrics.report import Reading, Status
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Frame, Pair, Triple


@dataclass(frozen=True)
class ClipFacts:
    """What is known about a clip when the walk is over.

    Attributes:
        num_frames: frames measured.
        fps: frames per second.
        complete: whether every frame was measured.
        uniform: whether the frames are also evenly spaced in time.
        cuts: first frame of each shot but the first.
        flashes: frames that differ from both neighbours while those agree with each other.
        coverage: share of pixels with believable flow, per pair, pairs across a cut left out.
        change: mean absolute difference in levels, per pair, pairs across a cut left out.
        window_starts: first frames of the context windows that made the clip, if known.
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
