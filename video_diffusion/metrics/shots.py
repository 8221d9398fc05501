"""Where one shot ends and another begins, flashes, and frames that are shown more than once."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from video_diffusion.metrics.report import Accumulator, ClipFacts, Reading, Series, SeriesAccumulator
from video_diffusion.metrics.views import Frame, Pair

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


NEAR_LEVELS = 0.25
NEAR_SHARE = 0.1


def near_duplicates(change: Float64[np.ndarray, "pairs"]) -> Bool[np.ndarray, "pairs"]:
    """Pairs as good as equal: they change by less than a quarter level and than a tenth of the median."""
    return (change > 0) & (change < NEAR_LEVELS) & (change < NEAR_SHARE * np.median(change))


def longest_run(marks: Bool[np.ndarray, "pairs"]) -> int:
    """Return the length of the longest run of True."""
    longest = run = 0
    for mark in marks:
        run = run + 1 if mark else 0
        longest = max(longest, run)
    return longest


class DuplicatePairs(SeriesAccumulator):
    """Number of neighbouring frames that are equal, or as good as equal while the rest of the clip moves.

    Details: `exact` (every pixel equal), `near` (see `near_duplicates`: an encoder's way of repeating a
    frame), `longest_freeze` (frames in the longest run of duplicates, 0 when there is none). The series is
    1 at the later frame of each duplicate pair.
    """

    view = Pair

    def look(self, view: Pair) -> float:
        """Return the mean absolute difference in levels: 0 exactly when every pixel is equal."""
        return view.change

    def result(self, clip: ClipFacts) -> Reading:
        """Return the count."""
        if not len(self.series):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        change = self.series.values
        exact, near = change == 0, near_duplicates(change)
        longest = longest_run(exact | near)
        details = {
            "exact": float(exact.sum()),
            "near": float(near.sum()),
            "longest_freeze": float(longest + 1 if longest else 0),
        }
        series = self.series.replaced(lambda _: (exact | near).astype(float).tolist())
        return Reading(float((exact | near).sum()), clip.status(len(change)), series, details=details)
