"""Morphing: how well each frame can be had from its neighbours by moving pixels."""

import math

import cv2
import numpy as np

from video_diffusion.metrics.flow import Levels, Mask
from video_diffusion.metrics.image import MARGIN, WINDOW, similarity_map
from video_diffusion.metrics.report import (
    LEAST_COVERAGE,
    Accumulator,
    ClipFacts,
    Reading,
    Series,
    SeriesAccumulator,
)
from video_diffusion.metrics.views import Frame, Pair, Triple, luma


class Coverage(SeriesAccumulator):
    """Mean share of pixels whose flow passes the forward–backward check, both directions, 0…1.

    Detail `unexplained`: share of pixels valid towards neither neighbour. Pixels that leave the picture
    lower the coverage but are not unexplained, because the other neighbour shows them.
    """

    view = Triple

    def look(self, view: Triple) -> float:
        """Return the share of pixels that neither neighbour explains."""
        return view.residual.unexplained

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        value = clip.coverage.mean()
        status = clip.status(len(clip.coverage), value)
        details = {"unexplained": self.series.mean()} if len(self.series) else {}
        note = "too little believable flow to speak for the clip" if value < LEAST_COVERAGE else ""
        return Reading(value, status, clip.coverage, value, details, note)


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


def similarity(warped: Levels, target: Frame, valid: Mask) -> float | None:
    """Mean SSIM of luma over pixels whose whole window is valid, None when there is no such pixel."""
    whole = cv2.erode(
        valid.astype(np.uint8),
        np.ones((WINDOW, WINDOW), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if min(valid.shape) <= 2 * MARGIN or not whole.any():
        return None
    return float(cv2.mean(similarity_map(luma(warped), target.luma), whole)[0])


class WarpSsim(Accumulator):
    """Mean SSIM of warped against true luma over believable pixels (mask eroded by 5), both ways, −1…1."""

    view = Pair

    def __init__(self) -> None:
        self._similarities = Series()

    def look(self, view: Pair) -> float | None:
        """Return the similarity of one pair, None when there is no believable window one way."""
        onto_first = similarity(view.second_on_first, view.first, view.forward_valid)
        onto_second = similarity(view.first_on_second, view.second, view.backward_valid)
        return None if onto_first is None or onto_second is None else (onto_first + onto_second) / 2

    def add(self, index: int, row: float | None) -> None:
        """Remember the similarity."""
        if row is not None:
            self._similarities.add(index, row)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs, none when too little of the picture has believable flow."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        coverage, series = clip.coverage.mean(), self._similarities
        if coverage < LEAST_COVERAGE or not len(series):
            return Reading(None, "unmeasurable", series, coverage)
        return Reading(self._similarities.mean(), clip.status(len(series), coverage), series, coverage)
