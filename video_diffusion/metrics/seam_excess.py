"""A11, seam excess: whether the joints between context windows show."""

from collections.abc import Collection, Mapping
from itertools import combinations
from math import comb

import numpy as np

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Pair

DRAWS = 999
"""Placements of the seams tried for p when there are too many to try all."""


def excess(left: Mapping[int, float], seams: Collection[int]) -> float:
    """Mean at the seams of what motion leaves, minus its median elsewhere, in levels.

    Args:
        left: later frame of each pair → what its flow leaves of the change.
        seams: first frames of the later windows, all of them in `left`, but not all that are in it.
    """
    elsewhere = [value for index, value in left.items() if index not in seams]
    return float(np.mean([left[seam] for seam in seams]) - np.median(elsewhere))


def chance(left: Mapping[int, float], seams: Collection[int]) -> float:
    """Share of placements of as many seams whose excess is at least as large: p of a permutation test.

    All placements are tried when there are at most `DRAWS`, otherwise so many are drawn (seed 0), the true
    one counted in. The smallest p is one over the number of placements: 1/15 for one seam in 16 frames.
    """
    places, observed = list(left), excess(left, seams) - 1e-12
    if comb(len(places), len(seams)) <= DRAWS:
        return float(np.mean([excess(left, trial) >= observed for trial in combinations(places, len(seams))]))
    generator = np.random.default_rng(0)
    drawn = [set(generator.choice(places, len(seams), replace=False).tolist()) for _ in range(DRAWS)]
    return (1 + sum(excess(left, trial) >= observed for trial in drawn)) / (DRAWS + 1)


class SeamExcess(SeriesAccumulator):
    """What motion leaves at the known starts of context windows, minus its median elsewhere, in levels.

    Per pair of frames, e = mean |w − I| of the second frame fetched onto the first; a seam of A levels
    gives A. A difference, not a ratio: on a clean clip a ratio would divide by almost nothing. Detail `p`:
    how likely seams at random places would show as much. A jump at a known start is a seam and never a cut.
    """

    view = Pair

    def look(self, view: Pair) -> float:
        """Return what the flow leaves of the change."""
        return view.change_along_flow

    def result(self, clip: ClipFacts) -> Reading:
        """Return the excess, none when no window starts are known."""
        left, coverage = self.series.by_frame(), clip.coverage.mean()
        if not clip.window_starts:
            return Reading(None, "unmeasurable", note="no context windows known")
        seams = [start for start in clip.window_starts if start in left]
        if not seams or 2 * len(seams) > len(left):
            return Reading(
                None,
                "too_short",
                self.series,
                coverage,
                note="needs more frames away from seams than at them",
            )
        value, details = excess(left, seams), {"p": chance(left, seams), "seams": float(len(seams))}
        return Reading(value, clip.status(len(left), coverage), self.series, coverage, details)
