"""Single frames: sharpness and brightness, so that no clip wins on flicker by being blurred or dark; SSIM."""

from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Float

from video_diffusion.metrics.flow import Plane
from video_diffusion.metrics.report import ClipFacts, Reading, SeriesAccumulator
from video_diffusion.metrics.views import Frame, Triple


class Sharpness(SeriesAccumulator):
    """Root mean square over pixels of the luma gradient, in levels per pixel, mean over frames.

    The gradient is the central difference ((Y(x+1) − Y(x−1)) / 2, likewise downwards), the edge repeated
    outside.
    """

    view = Frame
    needs_shots = False

    def look(self, view: Frame) -> float:
        """Return the gradient of one frame."""
        return _gradient(view.luma)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        return Reading(self.series.mean(), "has_cut" if clip.cuts else "ok", self.series)


class SteadySharpness(SeriesAccumulator):
    """Sharpness of what stays: the gradient of three frames' mean along the flow, at each centre frame.

    The mean is (w⁻ + 2I + w⁺) / 4 where both neighbours can be fetched, half of each where one can, and the
    frame itself elsewhere. Detail that moves stays in it; texture that is another in every frame, which
    `sharpness` counts in full, goes down to 61 % of its gradient.
    """

    view = Triple

    def look(self, view: Triple) -> float:
        """Return the gradient of the mean."""
        return _gradient(view.centre.luma + view.residual.signed_luma)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        if not len(self.series):
            return Reading(None, "too_short", note="needs 3 frames of one shot")
        return Reading(self.series.mean(), clip.status(len(self.series)), self.series)


def _gradient(luma: Plane) -> float:
    across = cv2.Sobel(luma, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(luma, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    energy = cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)
    return float((energy / luma.size) ** 0.5)


class MeanLuma(SeriesAccumulator):
    """Mean of Y = 0.299 R + 0.587 G + 0.114 B over pixels and frames, in 8-bit levels."""

    view = Frame
    needs_shots = False

    def look(self, view: Frame) -> float:
        """Return mean luma of one frame."""
        return view.mean_luma

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        return Reading(self.series.mean(), "has_cut" if clip.cuts else "ok", self.series)


Moment: TypeAlias = Float[np.ndarray, "*windows"]

WINDOW = 11
SIGMA = 1.5
C_1, C_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MARGIN = WINDOW // 2
"""Pixels nearer than this to something invalid, or to the edge, have a window that is not all there."""


def _blur(plane: Plane) -> Plane:
    return cv2.GaussianBlur(plane, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT_101)


def similarity_of_moments(
    mean_1: Moment, mean_2: Moment, variances: Moment, covariance: Moment, c_1: float = C_1, c_2: float = C_2
) -> Moment:
    """SSIM of two windows, or of two planes of windows, from their moments (equation 13 of the paper).

    Args:
        mean_1: of the first.
        mean_2: of the second.
        variances: of both, added.
        covariance: of the two.
        c_1: keeps dark windows from dividing by 0.
        c_2: keeps flat windows from dividing by 0.
    """
    product, energy = mean_1 * mean_2, mean_1 * mean_1 + mean_2 * mean_2
    return (2 * product + c_1) * (2 * covariance + c_2) / ((energy + c_1) * (variances + c_2))


def similarity_map(first: Plane, second: Plane) -> Plane:
    """SSIM per pixel of two planes in 0…255: Gaussian window of 11 × 11 with σ 1.5."""
    mean_1, mean_2 = _blur(first), _blur(second)
    variances = _blur(first * first + second * second) - (mean_1 * mean_1 + mean_2 * mean_2)
    return similarity_of_moments(mean_1, mean_2, variances, _blur(first * second) - mean_1 * mean_2)
