"""Where one shot ends and another begins, flashes, and frames that are shown more than once."""

from array import array
from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from video_diffusion.metrics.flow import Rgb
from video_diffusion.metrics.report import Accumulator, ClipFacts, Reading, Series
from video_diffusion.metrics.views import Frame, mean_absolute_difference

PairSeries = Float64[np.ndarray, "pairs"]


def find_cuts(
    coverage: PairSeries, change: PairSeries, along_flow: PairSeries, change_across: PairSeries
) -> tuple[Bool[np.ndarray, "pairs"], Bool[np.ndarray, "pairs"]]:
    """Tell cuts from flashes in a run of pairs.

    All medians leave equal frames out where frames are shown twice or thrice, so that not every step of such
    a clip is a cut; where fewer than a quarter of the pairs change, it is stills that follow one another, and
    they count.

    Args:
        coverage: share of believable flow per pair.
        change: mean absolute difference of the two frames per pair, in levels.
        along_flow: the same with the second frame fetched along the flow.
        change_across: between the first frame of this pair and the second of the *next* pair; NaN if there
            is none.

    Returns:
        cut: the second frame of the pair starts a new shot: coverage below half its median, and what the
            flow leaves is more than half of the change and more than twice its own median. (Whether the
            plain change stands out is not asked: in fast motion it is at its ceiling, and a cut does not
            raise it.)
        flash: the second frame of the pair is a flash: this pair and the next both change by more than 1.5
            times the median, while across the two less than half of the smaller change is left.
    """
    moving = change > 0
    if moving.mean() < 0.25:
        moving = np.ones_like(moving)
    spike = change > 1.5 * np.median(change[moving])
    next_spike = np.append(spike[1:], False)
    smaller = np.minimum(change, np.append(change[1:], np.inf))
    flash = spike & next_spike & (np.nan_to_num(change_across, nan=np.inf) < smaller / 2)
    part_of_flash = flash | np.append(False, flash[:-1])
    unexplained = (along_flow > change / 2) & (along_flow > 2 * np.median(along_flow[moving]))
    incoherent = (coverage < np.median(coverage[moving]) / 2) & unexplained
    return incoherent & ~part_of_flash, flash


class Cuts(Accumulator):
    """Number of cuts; the walk finds them with `find_cuts`, because every other metric must know them.

    The series is 1 at the first frame of each shot but the first, and 0 elsewhere. Detail: `flashes`,
    frames that differ from both neighbours while those agree; a flash is no cut, its flicker counts.
    """

    view = Frame

    def __init__(self) -> None:
        self._frames = Series()

    def look(self, view: Frame) -> None:
        """Nothing to see: cuts are judged on the whole clip."""

    def add(self, index: int, row: Any) -> None:
        """Remember that the frame exists."""
        self._frames.add(index, 0.0)

    def result(self, clip: ClipFacts) -> Reading:
        """Return how many cuts were found."""
        if clip.num_frames < 3:
            return Reading(None, "too_short", note="needs 3 frames")
        series = Series()
        firsts = set(clip.cuts)
        for index in self._frames.by_frame():
            series.add(index, float(index in firsts))
        details = {"flashes": float(len(clip.flashes))}
        return Reading(float(len(clip.cuts)), "has_cut" if clip.cuts else "ok", series, details=details)


HELD_BELOW, HELD_AT_MOST = 0.25, 2.0
HELD_SHARE = 0.1
HELD_DRIFT = 4
FEWEST_STEPS = 8


def held_limit(change: PairSeries) -> float:
    """Return the change in levels below which a frame repeats the one before.

    A quarter level, or a tenth of the 90th percentile of all changes where that is less: encoders leave
    copies 0.01 to 0.2 level apart, and where two thirds of the frames are copies the median is one of them.
    Where copies come in a rhythm, at one pair in eight or more, the quarter level gives way: at low quality
    they differ by up to 2 levels.
    """
    if not change.size:
        return 0.0
    share = HELD_SHARE * float(np.percentile(change, 90))
    held = change < min(HELD_BELOW, share)
    num_runs = np.count_nonzero(held[1:] & ~held[:-1]) + bool(held[0])
    return min(HELD_AT_MOST if 8 * num_runs >= change.size else HELD_BELOW, share)


def find_held(change: PairSeries, change_across: PairSeries) -> Bool[np.ndarray, "pairs"]:
    """Find the frames that are shown again, so that a walk can step over them.

    Both changes of a flash, between frames that agree, say nothing about how fast the clip moves and do not
    enter `held_limit`. A frame is shown again when it changes by less than that, and when changes since the
    last frame that moved have not added up to `HELD_DRIFT` times the limit: slow motion goes on. Where a
    single pair changes, or fewer than a quarter of all and fewer than `FEWEST_STEPS`, it is stills that
    follow one another, or a flash on one of them, and nothing is stepped over.

    Args:
        change: mean absolute difference of the two frames per pair, in levels.
        change_across: between the first frame of this pair and the second of the next; NaN if there is none.

    Returns:
        held: the second frame of the pair repeats the first.
    """
    smaller = np.minimum(change, np.append(change[1:], np.inf))
    flash = (smaller > 0) & (np.nan_to_num(change_across, nan=np.inf) < smaller / 2)
    limit = held_limit(change[~(flash | np.append(False, flash[:-1]))])
    held = change < limit
    steps = np.count_nonzero(~held)
    if steps < 2 or (steps < held.size / 4 and steps < FEWEST_STEPS):
        return np.zeros_like(held)
    drifted = 0.0
    for place in np.flatnonzero(held):
        drifted = change[place] + (drifted if place and held[place - 1] else 0.0)
        if drifted > HELD_DRIFT * limit:
            held[place] = False
    return held


class HeldFrames:
    """Finds the held frames of a clip in a first walk, which needs no flow and remembers two frames."""

    def __init__(self) -> None:
        self._frames: deque[Rgb] = deque(maxlen=2)
        self._change, self._across = array("d"), array("d")

    def add(self, rgb: Rgb) -> None:
        """Take the next frame as it is shown."""
        if self._frames:
            self._change.append(mean_absolute_difference(self._frames[-1], rgb))
        if len(self._frames) == 2:
            is_step = min(self._change[-2:]) >= HELD_BELOW
            self._across.append(mean_absolute_difference(self._frames[0], rgb) if is_step else float("nan"))
        self._frames.append(rgb)

    def numbers(self) -> frozenset[int]:
        """Numbers of the frames that repeat the one before."""
        change, across = np.array(self._change), np.array([*self._across, float("nan")])
        held = find_held(change, across[: len(change)])
        return frozenset((np.flatnonzero(held) + 1).tolist())


def longest_run(marks: Bool[np.ndarray, "pairs"]) -> int:
    """Return the length of the longest run of True."""
    longest = run = 0
    for mark in marks:
        run = run + 1 if mark else 0
        longest = max(longest, run)
    return longest


class DuplicatePairs(Accumulator):
    """Number of neighbouring frames that are equal, or as good as equal while the rest of the clip moves.

    Counted on the frames as they are shown; every other metric steps over them. Details: `exact` (every pixel
    equal), `near` (below `held_limit`: an encoder's way of repeating a frame), `longest_freeze` (frames in
    the longest run of duplicates, 0 when there is none). The series is 1 at the later frame of each pair.
    """

    view = Frame
    needs_shots = False

    def look(self, view: Frame) -> None:
        """Nothing to see: the walk knows how much each shown frame differs from the one before."""

    def add(self, index: int, row: Any) -> None:
        """Nothing to remember."""

    def result(self, clip: ClipFacts) -> Reading:
        """Return the count."""
        change = clip.shown_change.values
        if not len(change):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        exact, near = change == 0, (change > 0) & (change < held_limit(change))
        longest = longest_run(exact | near)
        details = {
            "exact": float(exact.sum()),
            "near": float(near.sum()),
            "longest_freeze": float(longest + 1 if longest else 0),
        }
        series = clip.shown_change.replaced(lambda _: (exact | near).astype(float).tolist())
        return Reading(float((exact | near).sum()), clip.status(len(change)), series, details=details)
