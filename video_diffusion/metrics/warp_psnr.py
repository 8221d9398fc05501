"""A5, warp PSNR: how well each frame can be had from its neighbour by moving pixels."""

import math

import cv2
import numpy as np

from video_diffusion.metrics.accumulator import LEAST_COVERAGE, Accumulator, ClipFacts
from video_diffusion.metrics.optical_flow import Levels, Mask
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Pair

HIGHEST = 100.0
"""In dB: what a perfect match is given, so that no infinity gets into a mean."""


def psnr(mean_square_error: float) -> float:
    """Return 10 log₁₀(255² / mean square error in levels²) in dB, 0 to `HIGHEST`."""
    if mean_square_error <= 0:
        return HIGHEST
    return min(HIGHEST, max(0.0, 10 * math.log10(255**2 / mean_square_error)))


def mean_square_error(warped: Levels, target: Levels, valid: Mask) -> float | None:
    """Mean squared difference over valid pixels and channels in levels², None when no pixel is valid."""
    count = int(np.count_nonzero(valid))
    if not count:
        return None
    return float(cv2.norm(warped, target, cv2.NORM_L2SQR, valid.astype(np.uint8))) / (3 * count)


class WarpPsnr(Accumulator):
    """PSNR in dB of the mean square error of warped against true frame, over believable pixels.

    Each pair is warped both ways and the errors averaged; the value is the PSNR of the mean error over
    pairs.
    """

    view = Pair

    def __init__(self) -> None:
        self._errors = Series()

    def look(self, view: Pair) -> float | None:
        """Return the mean square error of one pair, None when there is no believable pixel one way."""
        onto_first = mean_square_error(view.second_on_first, view.first.levels, view.forward_valid)
        onto_second = mean_square_error(view.first_on_second, view.second.levels, view.backward_valid)
        return None if onto_first is None or onto_second is None else (onto_first + onto_second) / 2

    def add(self, index: int, row: float | None) -> None:
        """Remember the error."""
        if row is not None:
            self._errors.add(index, row)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the PSNR, none when too little of the picture has believable flow."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        coverage = clip.coverage.mean()
        series = self._errors.replaced(lambda errors: [psnr(error) for error in errors.tolist()])
        if coverage < LEAST_COVERAGE:
            return Reading(None, "unmeasurable", series, coverage)
        return Reading(psnr(self._errors.mean()), clip.status(len(self._errors), coverage), series, coverage)
