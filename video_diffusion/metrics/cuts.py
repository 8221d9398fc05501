"""A10, cuts and flashes: where one shot ends and another begins."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from video_diffusion.metrics.accumulator import Accumulator, ClipFacts
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Frame

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
