"""A11, seam excess: whether the joints between context windows show."""

from collections.abc import Mapping
from itertools import combinations, islice
from math import comb

import numpy as np

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Triple

DRAWS = 999
"""Placements of the seams tried for p when there are too many to try all."""


def excess(flicker: Mapping[int, float], seams: tuple[int, ...]) -> float:
    """Mean flicker of the two frames at each seam, minus the median flicker of the other frames, in levels.

    Args:
        flicker: middle frame of each triple → flicker in levels.
        seams: first frames of the later windows; the frame before each must be in `flicker` too.
    """
    at_seams = {index for seam in seams for index in (seam - 1, seam)}
    elsewhere = [value for index, value in flicker.items() if index not in at_seams]
    return float(
        np.mean([flicker[index] for seam in seams for index in (seam - 1, seam)]) - np.median(elsewhere)
    )


def chance(flicker: Mapping[int, float], seams: tuple[int, ...]) -> float:
    """Share of placements of as many seams whose excess is at least as large: p of a permutation test.

    All placements are tried when there are at most `DRAWS`, otherwise so many are drawn (seed 0), the true
    one counted in. The smallest p is one over the number of placements: 12 for one seam in 14 frames.
    """
    places = [index for index in flicker if index - 1 in flicker]
    observed = excess(flicker, seams)
    if comb(len(places), len(seams)) <= DRAWS:
        placements = list(islice(combinations(places, len(seams)), DRAWS))
        return float(np.mean([_at_least(flicker, placement, observed) for placement in placements]))
    generator = np.random.default_rng(0)
    drawn = [tuple(generator.choice(places, len(seams), replace=False).tolist()) for _ in range(DRAWS)]
    return (1 + sum(_at_least(flicker, placement, observed) for placement in drawn)) / (DRAWS + 1)


def _at_least(flicker: Mapping[int, float], seams: tuple[int, ...], observed: float) -> bool:
    at_seams = {index for seam in seams for index in (seam - 1, seam)}
    return len(at_seams) == len(flicker) or excess(flicker, seams) >= observed - 1e-12


class SeamExcess(SeriesAccumulator):
    """Flicker at the known starts of context windows minus the median flicker elsewhere, in levels.

    A difference, not a ratio: on a clean clip a ratio would divide by almost nothing. Detail `p`: how
    likely seams at random places would show as much. A jump at a known start counts as a seam and never as
    a cut.
    """

    view = Triple

    def look(self, view: Triple) -> float:
        """Return the flicker at the centre frame."""
        return view.residual.level

    def result(self, clip: ClipFacts) -> Reading:
        """Return the excess, none when no window starts are known."""
        flicker = {index: value for index, value in self.series.by_frame().items() if np.isfinite(value)}
        coverage = clip.coverage.mean()
        if not clip.window_starts:
            return Reading(None, "unmeasurable", note="no context windows known")
        seams = tuple(seam for seam in clip.window_starts if seam in flicker and seam - 1 in flicker)
        if not seams or 2 * len(seams) >= len(flicker):
            return Reading(
                None, "too_short", flicker, coverage, note="needs more frames away from seams than at them"
            )
        value, details = excess(flicker, seams), {"p": chance(flicker, seams), "seams": float(len(seams))}
        return Reading(value, clip.status(len(flicker), coverage), flicker, coverage, details)
