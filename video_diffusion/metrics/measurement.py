"""The walk along a clip: feeds frames to the metrics, finds the cuts, and closes with a report."""

import math
import os
from array import array
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8

from video_diffusion.metrics.flow import FlowMethod, Rgb, SuppliedFlow
from video_diffusion.metrics.report import (
    Accumulator,
    ClipFacts,
    ConsistencyReport,
    Direction,
    Measure,
    Series,
)
from video_diffusion.metrics.shots import find_cuts
from video_diffusion.metrics.views import Frame, Pair, Triple, mean_absolute_difference

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
TICK, CENTISECOND = 0.002 + 1e-9, 0.01 + 1e-9
"""In seconds: the rounding of containers that count in milliseconds, and of GIF."""
Answer = TypeVar("Answer")
HORIZON = 256
"""Cuts are judged against the medians of up to 512 pairs around them; a shorter clip against its own."""


MAX_PIXELS = 2048 * 1152
"""Larger frames are measured at a half, a third, … of their size, so that memory stays bounded."""
MAX_LARGE_THREADS = 1


def idle_cores() -> int:
    """Return how many threads to measure in: the cores that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


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
class _Looks:
    """What the metrics saw of a frame and of the pair that it ends: only numbers."""

    frame_rows: list[Any]
    pair_rows: list[Any]
    coverage: float = NAN
    change: float = NAN
    along_flow: float = NAN


@dataclass(frozen=True, eq=False)
class _Step:
    """One new frame whose looks are taken now or in other threads."""

    frame: Frame
    pair: Pair | None
    triple: Triple | None
    looks: "Future[_Looks]"


@dataclass(frozen=True, eq=False)
class _Observation:
    """What is kept of one new frame until the cuts around it are known: only numbers, no image."""

    index: int
    before: int | None
    looks: _Looks
    triple_rows: list[Any]
    change_across: float


class Measurement:
    """Measures one clip frame by frame, holding the images of three frames and the rows of up to 512.

    Args:
        metrics: which lines of the table to measure.
        flow: optical flow method, used once for each pair of frames.
        window_starts: first frames of the context windows that made the clip, if known. A jump there is a
            seam, not a cut.
        held: numbers of the frames that repeat the one before, as `HeldFrames` finds them: the walk steps
            over them, so that every pair is of distinct frames.
        one_shot: the clip is known to have no cut; its worst jump is scored.
        threads: pairs that are looked at at the same time; the numbers do not depend on it.
        on_triple: given each triple in order, for whoever wants to see where things change.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        flow: FlowMethod,
        window_starts: Sequence[int] = (),
        *,
        held: Collection[int] = (),
        one_shot: bool = False,
        threads: int = 1,
        on_triple: Callable[[Triple], None] | None = None,
    ):
        self._metrics = tuple(metrics)
        self._flow = flow
        self._held = frozenset(held)
        self._window_starts = tuple(sorted({self._distinct_from(start) for start in window_starts}))
        self._accumulators = [metric.start() for metric in metrics]
        self._by_view = {
            view: [accumulator for accumulator in self._accumulators if accumulator.view is view]
            for view in (Frame, Pair, Triple)
        }
        self._find_cuts = not one_shot and any(each.needs_shots for each in self._accumulators)
        self._covers = bool(self._find_cuts or self._by_view[Pair] or self._by_view[Triple])
        self._threads, self._delay = threads, 0
        self._pool: ThreadPoolExecutor | None = None
        self._shown_size: tuple[int, int] | None = None
        self._shrink = 1
        self._on_triple = on_triple
        self._steps: deque[_Step] = deque()
        self._looks_before: Future[_Looks] | None = None
        self._looking: deque[tuple[_Step, Future[tuple[list[Any], float]]]] = deque()
        self._last_shown: Frame | None = None
        self._last_frame: Frame | None = None
        self._last_pair: Pair | None = None
        self._unbroken = False
        self._pending: deque[_Observation] = deque()
        self._settled: _Observation | None = None
        self._settled_is_cut = False
        self._frame_numbers = array("q")
        self._distinct = array("q")
        self._complete = True
        self._shown_spacing, self._spacing = _Spacing(), _Spacing()
        self._cuts: list[int] = []
        self._flashes: list[int] = []
        self._coverage = Series()
        self._change = Series()
        self._shown_change = Series()

    def _begin(self, height: int, width: int) -> None:
        """Choose threads and measured size by the first frame: a pair takes some 200 bytes a pixel."""
        self._shown_size = height, width
        is_large = height * width > MAX_PIXELS and not isinstance(self._flow, SuppliedFlow)
        self._shrink = math.ceil(math.sqrt(height * width / MAX_PIXELS)) if is_large else 1
        threads = min(self._threads, MAX_LARGE_THREADS) if is_large else self._threads
        if threads > 1:
            self._pool, self._delay = ThreadPoolExecutor(threads), threads

    def _reduced(self, rgb: Rgb) -> UInt8[np.ndarray, "rows columns 3"]:
        """Average whole blocks of pixels of a frame that is too large to be measured as it is."""
        if self._shrink == 1:
            return rgb
        height, width = (max(side // self._shrink, 1) for side in rgb.shape[:2])
        return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA))

    def _distinct_from(self, index: int) -> int:
        while index in self._held:
            index += 1
        return index

    def add(self, index: int, time: float, rgb: Rgb) -> None:
        """Take frame `index`, shown at `time` seconds; a jump in `index` means that frames were left out."""
        if self._shown_size is None:
            self._begin(*rgb.shape[:2])
        frame, shown = Frame(index, time, self._reduced(rgb)), self._last_shown
        follows = shown is not None and index == shown.index + 1
        self._complete = self._complete and (follows or shown is None)
        self._unbroken = self._unbroken and follows
        self._frame_numbers.append(index)
        self._shown_spacing.add(time)
        change = None
        if shown is not None and follows:
            change = mean_absolute_difference(shown.rgb, frame.rgb)
            self._shown_change.add(index, change)
        self._last_shown = frame
        if self._unbroken and index in self._held:
            return
        self._distinct.append(index)
        self._spacing.add(time)
        pair = None
        if self._last_frame is not None and self._unbroken:
            known = change if shown is self._last_frame else None
            pair = Pair(self._last_frame, frame, self._flow, known)
        triple = Triple(self._last_pair, pair) if self._last_pair is not None and pair is not None else None
        frame.arrival = pair
        self._last_frame, self._last_pair, self._unbroken = frame, pair, True
        self._steps.append(_Step(frame, pair, triple, self._submit(self._look, frame, pair)))
        self._proceed(self._delay)

    def _submit(self, work: Callable[..., Answer], *views: Any) -> "Future[Answer]":
        if self._pool is not None:
            return self._pool.submit(work, *views)
        done: Future[Answer] = Future()
        done.set_result(work(*views))
        return done

    def _look(self, frame: Frame, pair: Pair | None) -> _Looks:
        frame_rows = [accumulator.look(frame) for accumulator in self._by_view[Frame]]
        if pair is None:
            return _Looks(frame_rows, [])
        return _Looks(
            frame_rows=frame_rows,
            pair_rows=[accumulator.look(pair) for accumulator in self._by_view[Pair]],
            coverage=pair.coverage if self._covers else NAN,
            change=pair.change,
            along_flow=pair.change_along_flow if self._find_cuts else NAN,
        )

    def _look_at_triple(
        self, triple: Triple | None, before: "Future[_Looks] | None", after: "Future[_Looks]"
    ) -> tuple[list[Any], float]:
        """Look when both pairs have been looked at, so that nothing is computed twice."""
        after.result()
        if triple is None or before is None:
            return [], NAN
        before.result()
        rows = [accumulator.look(triple) for accumulator in self._by_view[Triple]]
        return rows, triple.change_across if self._find_cuts else NAN

    def _proceed(self, delay: int) -> None:
        """Start on triples and collect what is done, all but the last `delay` steps of each kind.

        A triple is started `delay` steps after its pairs, which are ready by then: no thread waits.
        """
        while len(self._steps) > delay:
            step = self._steps.popleft()
            triple = self._submit(self._look_at_triple, step.triple, self._looks_before, step.looks)
            self._looks_before = step.looks
            self._looking.append((step, triple))
        while len(self._looking) > delay:
            step, seen = self._looking.popleft()
            rows, across = seen.result()
            before = None if step.pair is None else step.pair.first.index
            step.frame.arrival = None  # a frame that kept its pair would keep all frames before it
            self._pending.append(_Observation(step.frame.index, before, step.looks.result(), rows, across))
            if step.triple is not None and self._on_triple is not None:
                self._on_triple(step.triple)
        if len(self._pending) >= 2 * HORIZON:
            self._settle(HORIZON)

    @property
    def evenly_spaced(self) -> bool:
        """Whether the frames so far come at even steps in time."""
        return self._shown_spacing.even

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
        self._proceed(0)
        if self._pool is not None:
            self._pool.shutdown()
        self._settle(len(self._pending))
        distinct_fps = self._distinct_fps(fps)
        clip = ClipFacts(
            num_frames=len(self._distinct),
            fps=distinct_fps,
            complete=self._complete,
            uniform=self._complete and self.evenly_spaced and self._spacing.within(self._shown_spacing),
            cuts=tuple(self._cuts),
            flashes=tuple(self._flashes),
            coverage=self._coverage,
            change=self._change,
            window_starts=self._window_starts,
            shown_change=self._shown_change,
        )
        assert self._shown_size is not None
        (height, width), measured = self._shown_size, self._last_frame.rgb.shape
        reduced = f", frames reduced to {measured[1]}×{measured[0]}" if self._shrink > 1 else ""
        return ConsistencyReport(
            num_frames=len(self._frame_numbers) if num_frames is None else num_frames,
            fps=fps,
            width=width,
            height=height,
            flow=self._flow.name + reduced,
            frame_numbers=self._measured_frames(),
            values={
                metric.name: self._measure(metric, accumulator, clip, keep_series)
                for metric, accumulator in zip(self._metrics, self._accumulators, strict=True)
            },
            held_frames=len(self._frame_numbers) - len(self._distinct),
            distinct_fps=distinct_fps,
            repeats=self._repeats(),
        )

    def _distinct_fps(self, fps: Fraction) -> Fraction:
        """Frames per second of the distinct frames, by the frames that their steps take as shown."""
        steps = [later - earlier for earlier, later in pairwise(self._distinct)]
        if len(self._distinct) == len(self._frame_numbers) or not self._complete or not steps:
            return fps
        return fps * len(steps) / sum(steps)

    def _repeats(self) -> str:
        """How often frames are shown: the last one may be cut short."""
        if len(self._distinct) == len(self._frame_numbers):
            return ""
        counts = [later - earlier for earlier, later in pairwise(self._distinct)]
        if counts and self._complete and min(counts) == max(counts):
            return f"each frame is shown {counts[0]} times"
        return f"{len(self._frame_numbers) - len(self._distinct)} frames repeat the one before"

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
        cuts: set[int] = set()
        flashes: set[int] = set()
        if self._find_cuts:
            before = [self._settled] if self._settled is not None else []
            cuts, flashes = _cuts_and_flashes([*before, *self._pending])
            cuts -= set(self._window_starts)
        for _ in range(count):
            observation = self._pending.popleft()
            if observation.index in flashes:
                self._flashes.append(observation.index)
            self._hand_over(observation, observation.index in cuts)

    def _hand_over(self, observation: _Observation, is_cut: bool) -> None:
        index, before, looks = observation.index, observation.before, observation.looks
        if is_cut:
            self._cuts.append(index)
        if is_cut or before is None:
            for accumulator in self._accumulators:
                accumulator.new_shot()
        else:
            self._coverage.add(index, looks.coverage)
            self._change.add(index, looks.change)
            for accumulator, row in zip(self._by_view[Pair], looks.pair_rows, strict=True):
                accumulator.add(index, row)
            if observation.triple_rows and not self._settled_is_cut:
                for accumulator, row in zip(self._by_view[Triple], observation.triple_rows, strict=True):
                    accumulator.add(before, row)
        for accumulator, row in zip(self._by_view[Frame], looks.frame_rows, strict=True):
            accumulator.add(index, row)
        self._settled, self._settled_is_cut = observation, is_cut


def _cuts_and_flashes(observations: Sequence[_Observation]) -> tuple[set[int], set[int]]:
    """Return the first frames of new shots and the frames that are flashes."""
    pairs = [observation for observation in observations if observation.before is not None]
    if not pairs:
        return set(), set()
    across = [later.change_across if later.before == pair.index else NAN for pair, later in pairwise(pairs)]
    marks = find_cuts(
        coverage=np.array([pair.looks.coverage for pair in pairs]),
        change=np.array([pair.looks.change for pair in pairs]),
        along_flow=np.array([pair.looks.along_flow for pair in pairs]),
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
        self._tick = CENTISECOND

    def add(self, time: float) -> None:
        if self._last is not None:
            self._shortest = min(self._shortest, time - self._last)
            self._longest = max(self._longest, time - self._last)
        if abs(100 * time - round(100 * time)) > 1e-4:  # not a container of whole hundredths of a second
            self._tick = TICK
        self._last = time

    @property
    def even(self) -> bool:
        """To within one tick of the container (12 and 13 cs for 8 frames a second), or 2 % of a step."""
        return self._longest == 0 or self._longest - self._shortest <= max(self._tick, 0.02 * self._longest)

    def within(self, shown: "_Spacing") -> bool:
        """Whether steps differ by no more than one frame of the clip as it is shown, as when held 3 : 2."""
        return self.even or self._longest - self._shortest <= shown._longest + self._tick
