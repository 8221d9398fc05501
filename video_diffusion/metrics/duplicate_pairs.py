"""A9, duplicate pairs: frames shown twice, and pictures that stand still."""

import numpy as np
from jaxtyping import Bool, Float64

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Pair

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
