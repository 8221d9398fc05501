"""Sharpness: spatial gradient energy, so that a clip cannot win on flicker by being blurred."""

import cv2

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Frame


class Sharpness(SeriesAccumulator):
    """Root mean square over pixels of the luma gradient, in levels per pixel, mean over frames.

    The gradient is the central difference ((Y(x+1) − Y(x−1)) / 2, likewise downwards), the edge repeated
    outside.
    """

    view = Frame

    def look(self, view: Frame) -> float:
        """Return the gradient of one frame."""
        across = cv2.Sobel(view.luma, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
        down = cv2.Sobel(view.luma, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
        energy = cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)
        return float((energy / view.luma.size) ** 0.5)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        return Reading(self.series.mean(), "has_cut" if clip.cuts else "ok", self.series)
