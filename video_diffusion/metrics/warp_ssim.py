"""A5, warp SSIM: whether neighbouring frames have the same structure once motion is taken out."""

import cv2
import numpy as np

from video_diffusion.metrics.accumulator import LEAST_COVERAGE, Accumulator, ClipFacts
from video_diffusion.metrics.luma import luma
from video_diffusion.metrics.optical_flow import Levels, Mask
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.structural_similarity import MARGIN, WINDOW, similarity_map
from video_diffusion.metrics.views import Frame, Pair


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
