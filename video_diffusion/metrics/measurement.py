"""The walk along a clip: feeds frames to the metrics, finds the cuts, and closes with a report."""

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import UInt8

from video_diffusion.metrics.flow import FlowMethod, Rgb
from video_diffusion.metrics.report import (
    Accumulator,
    ClipFacts,
    ConsistencyReport,
    Direction,
    Measure,
    Series,
)
from video_diffusion.metrics.shots import find_cuts
from video_diffusion.metrics.views import Frame, Pair, Triple

HALF_A_LEVEL = 0.5 / 255


def as_uint8_frames(frames: Any) -> UInt8[np.ndarray, "f h w 3"]:
    """Return RGB frames as uint8 `f h w c`, rounded and not truncated, as the encoder gets them.

    Args:
        frames: uint8 or float in [0, 1]; a NumPy array (or a list of frames) `f h w c`, or a torch tensor
            `f c h w` on any device. Floats may overstep [0, 1] by half a level.

    Raises:
        ValueError: wrong number of axes or channels, other types, numbers outside the range, NaN, or no
            frame.
    """
    array = _to_numpy(frames)
    if array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(
            "frames must have the axes f h w c with 3 colour channels (torch: f c h w); given shape "
            f"{tuple(np.shape(frames))}"
        )
    if 0 in array.shape:
        raise ValueError(
            f"frames must hold at least one frame and one pixel; given shape {tuple(np.shape(frames))}"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"frames must be uint8 or floats in [0, 1]; given {array.dtype}; convert them first")
    low, high = float(array.min()), float(array.max())
    if not (low >= -HALF_A_LEVEL and high <= 1 + HALF_A_LEVEL):
        raise ValueError(
            f"frames must be floats in [0, 1]; given {low:g} to {high:g}; divide 8-bit levels by 255"
        )
    return np.ascontiguousarray(np.clip(np.rint(array * 255), 0, 255).astype(np.uint8))


def _to_numpy(frames: Any) -> np.ndarray:
    if hasattr(frames, "detach"):  # a torch tensor, known by its manners: metrics do not import torch
        tensor = frames.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        array: np.ndarray = tensor.numpy()
        return np.moveaxis(array, 1, -1) if array.ndim == 4 else array
    return np.asarray(frames)


def as_fps(fps: Fraction | float | int) -> Fraction:
    """Return frames per second as an exact fraction.

    Raises:
        ValueError: not a finite number above 0.
    """
    try:
        exact = Fraction(fps)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        exact = Fraction(0)
    if exact <= 0:
        raise ValueError(f"fps must be a number above 0; given {fps!r}")
    return exact


def as_window_starts(window_starts: Sequence[int] | None, num_frames: int | None = None) -> tuple[int, ...]:
    """Return the first frames of context windows in order, once each; not frame 0, where no seam can be.

    Args:
        window_starts: None means that no windows are known.
        num_frames: of the clip; None while that is not known.

    Raises:
        ValueError: a start outside the clip.
    """
    starts = sorted(set(window_starts or ()))
    if starts and (starts[0] < 0 or (num_frames is not None and starts[-1] >= num_frames)):
        last = "" if num_frames is None else num_frames - 1
        raise ValueError(f"window_starts must lie in 0…{last}, the frames of the clip; given {starts}")
    return tuple(start for start in starts if start > 0)


NAN = float("nan")
HORIZON = 256
"""Cuts are judged against the medians of up to 512 pairs around them; a shorter clip against its own."""


@dataclass(frozen=True)
class Metric:
    """One line of `ALL_METRICS`.

    Attributes:
        name: as in reports.
        unit: of the value.
        range: smallest and largest possible value.
        direction: which way is better; "neither" for what only describes.
        group: flicker, morph, drift, motion or sharpness.
        source: where the definition comes from.
        start: makes a fresh accumulator for one clip.
    """

    name: str
    unit: str
    range: tuple[float, float]
    direction: Direction
    group: str
    source: str
    start: Callable[[], Accumulator]


@dataclass(frozen=True, eq=False)
class _Observation:
    """What is kept of one new frame until the cuts around it are known: only numbers, no picture."""

    index: int
    continues: bool
    frame_rows: list[Any]
    pair_rows: list[Any]
    triple_rows: list[Any]
    coverage: float = NAN
    change: float = NAN
    along_flow: float = NAN
    change_across: float = NAN


class Measurement:
    """Measures one clip frame by frame, holding the pictures of three frames and the rows of up to 512.

    Args:
        metrics: which lines of the table to measure.
        flow: optical flow method, used once for each pair of frames.
        window_starts: first frames of the context windows that made the clip, if known. A jump there is a
            seam, not a cut.
    """

    def __init__(self, metrics: Sequence[Metric], flow: FlowMethod, window_starts: Sequence[int] = ()):
        self._metrics = tuple(metrics)
        self._flow = flow
        self._window_starts = tuple(window_starts)
        self._accumulators = [metric.start() for metric in metrics]
        self._by_view = {
            view: [accumulator for accumulator in self._accumulators if accumulator.view is view]
            for view in (Frame, Pair, Triple)
        }
        self._last_frame: Frame | None = None
        self._last_pair: Pair | None = None
        self._pending: deque[_Observation] = deque()
        self._settled: _Observation | None = None
        self._settled_is_cut = False
        self._frame_numbers = array("q")
        self._complete = True
        self._spacing = _Spacing()
        self._cuts: list[int] = []
        self._flashes: list[int] = []
        self._coverage = Series()
        self._change = Series()

    def add(self, index: int, time: float, rgb: Rgb) -> Triple | None:
        """Take frame `index`, shown at `time` seconds; a jump in `index` means that frames were left out.

        Returns:
            The triple that this frame completed, for whoever wants to see where things change.
        """
        frame = Frame(index, time, rgb)
        continues = self._last_frame is not None and index == self._last_frame.index + 1
        pair = (
            Pair(self._last_frame, frame, self._flow) if self._last_frame is not None and continues else None
        )
        triple = Triple(self._last_pair, pair) if self._last_pair is not None and pair is not None else None
        self._frame_numbers.append(index)
        self._complete = self._complete and (continues or self._last_frame is None)
        self._spacing.add(time)
        self._pending.append(
            _Observation(
                index=index,
                continues=continues,
                frame_rows=[accumulator.look(frame) for accumulator in self._by_view[Frame]],
                pair_rows=[accumulator.look(pair) for accumulator in self._by_view[Pair]] if pair else [],
                triple_rows=[accumulator.look(triple) for accumulator in self._by_view[Triple]]
                if triple
                else [],
                coverage=pair.coverage if pair else NAN,
                change=pair.change if pair else NAN,
                along_flow=pair.change_along_flow if pair else NAN,
                change_across=triple.change_across if triple else NAN,
            )
        )
        self._last_frame, self._last_pair = frame, pair
        if len(self._pending) >= 2 * HORIZON:
            self._settle(HORIZON)
        return triple

    @property
    def evenly_spaced(self) -> bool:
        """Whether the frames so far come at even steps in time."""
        return self._spacing.even

    def report(
        self, fps: Fraction, num_frames: int | None = None, keep_series: bool = True
    ) -> ConsistencyReport:
        """Close the walk.

        Args:
            fps: frames per second of the clip.
            num_frames: of the whole clip; None when every frame was measured.
            keep_series: False leaves the values of every frame out of the report, which then stays small.

        Raises:
            ValueError: no frame was measured.
        """
        if self._last_frame is None:
            raise ValueError("frames must hold at least one frame; given none")
        self._settle(len(self._pending))
        clip = ClipFacts(
            num_frames=len(self._frame_numbers),
            fps=fps,
            complete=self._complete,
            uniform=self._complete and self.evenly_spaced,
            cuts=tuple(self._cuts),
            flashes=tuple(self._flashes),
            coverage=self._coverage,
            change=self._change,
            window_starts=self._window_starts,
        )
        height, width = self._last_frame.rgb.shape[:2]
        return ConsistencyReport(
            num_frames=len(self._frame_numbers) if num_frames is None else num_frames,
            fps=fps,
            width=width,
            height=height,
            flow=self._flow.name,
            frame_numbers=self._measured_frames(),
            values={
                metric.name: self._measure(metric, accumulator, clip, keep_series)
                for metric, accumulator in zip(self._metrics, self._accumulators, strict=True)
            },
        )

    def _measured_frames(self) -> Sequence[int]:
        numbers = self._frame_numbers
        everything = self._complete and numbers[0] == 0
        return range(len(numbers)) if everything else tuple(numbers)

    def _along(self, series: Series | None) -> tuple[float | None, ...]:
        """The numbers of a series at every frame measured."""
        return () if series is None else tuple(map(series.by_frame().get, self._frame_numbers))

    def _measure(
        self, metric: Metric, accumulator: Accumulator, clip: ClipFacts, keep_series: bool
    ) -> Measure:
        reading = accumulator.result(clip)
        return Measure(
            value=reading.value,
            unit=metric.unit,
            direction=metric.direction,
            group=metric.group,
            status=reading.status,
            series=self._along(reading.series) if keep_series else (),
            coverage=reading.coverage,
            details=dict(reading.details),
            note=reading.note,
        )

    def _settle(self, count: int) -> None:
        """Decide the cuts among the first `count` pending frames and hand their rows to the metrics."""
        before = [self._settled] if self._settled is not None else []
        cuts, flashes = _cuts_and_flashes([*before, *self._pending])
        cuts -= set(self._window_starts)
        for _ in range(count):
            observation = self._pending.popleft()
            if observation.index in flashes:
                self._flashes.append(observation.index)
            self._hand_over(observation, observation.index in cuts)

    def _hand_over(self, observation: _Observation, is_cut: bool) -> None:
        index = observation.index
        if is_cut:
            self._cuts.append(index)
        if is_cut or not observation.continues:
            for accumulator in self._accumulators:
                accumulator.new_shot()
        else:
            self._coverage.add(index, observation.coverage)
            self._change.add(index, observation.change)
            for accumulator, row in zip(self._by_view[Pair], observation.pair_rows, strict=True):
                accumulator.add(index, row)
            if observation.triple_rows and not self._settled_is_cut:
                for accumulator, row in zip(self._by_view[Triple], observation.triple_rows, strict=True):
                    accumulator.add(index - 1, row)
        for accumulator, row in zip(self._by_view[Frame], observation.frame_rows, strict=True):
            accumulator.add(index, row)
        self._settled, self._settled_is_cut = observation, is_cut


def _cuts_and_flashes(observations: Sequence[_Observation]) -> tuple[set[int], set[int]]:
    """Return the first frames of new shots and the frames that are flashes."""
    pairs = [observation for observation in observations if observation.continues]
    if not pairs:
        return set(), set()
    across = [
        later.change_across if later.index == pair.index + 1 else NAN for pair, later in pairwise(pairs)
    ]
    marks = find_cuts(
        coverage=np.array([pair.coverage for pair in pairs]),
        change=np.array([pair.change for pair in pairs]),
        along_flow=np.array([pair.along_flow for pair in pairs]),
        change_across=np.array([*across, NAN]),
    )
    index = np.array([pair.index for pair in pairs])
    cuts, flashes = (set(index[mark].tolist()) for mark in marks)
    return cuts, flashes


class _Spacing:
    """Whether frames come at even steps in time."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._shortest = float("inf")
        self._longest = 0.0

    def add(self, time: float) -> None:
        if self._last is not None:
            self._shortest = min(self._shortest, time - self._last)
            self._longest = max(self._longest, time - self._last)
        self._last = time

    @property
    def even(self) -> bool:
        """To within 2 ms, the rounding of containers that count in milliseconds, or 2 % of a step."""
        return self._longest == 0 or self._longest - self._shortest <= max(0.002 + 1e-9, 0.02 * self._longest)
