"""A13, flash safety: flashes that can trigger photosensitive seizures."""

from collections import deque

import cv2
import numpy as np
from jaxtyping import Float64

from video_diffusion.metrics.accumulator import Accumulator, ClipFacts
from video_diffusion.metrics.luma import Cells, cell_means
from video_diffusion.metrics.optical_flow import Rgb
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Frame

RISE = 0.1
"""A transition is a change of relative luminance by a tenth of the maximum, up or down …"""
DARKER_BELOW = 0.8
"""… whose darker end lies below this."""
AREA = 0.25
"""Share of the cells that must make it at the same frame: a quarter of any 10° of the field of view."""
ALLOWED = 3
"""General flashes, pairs of opposing transitions, within any one second."""

_CODES = np.arange(256) / 255
LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""sRGB code value → linear light in 0…1."""


def relative_luminance(rgb: Rgb) -> Cells:
    """Mean relative luminance of the 8 × 8 cells in 0…1: 0.2126 R + 0.7152 G + 0.0722 B of linear light."""
    weights = np.array([[0.2126, 0.7152, 0.0722]], dtype=np.float32)
    return cell_means(cv2.transform(cv2.LUT(rgb, LINEAR), weights).reshape(rgb.shape[:2]))


class TransitionFinder:
    """Finds, cell by cell, where luminance has risen or fallen by `RISE` since it last turned."""

    def __init__(self) -> None:
        self._lowest: Float64[np.ndarray, "cells"] = np.zeros(0)
        self._highest: Float64[np.ndarray, "cells"] = np.zeros(0)
        self._direction: Float64[np.ndarray, "cells"] = np.zeros(0)

    def add(self, luminance: Float64[np.ndarray, "cells"]) -> tuple[float, float]:
        """Take the cells of the next frame; return the shares that completed a rise and a fall with it."""
        if not self._direction.size:
            self._lowest, self._highest = luminance.copy(), luminance.copy()
            self._direction = np.zeros_like(luminance)
        self._lowest = np.minimum(self._lowest, luminance)
        self._highest = np.maximum(self._highest, luminance)
        rise = (self._direction <= 0) & (luminance - self._lowest >= RISE - 1e-6)
        fall = (self._direction >= 0) & (self._highest - luminance >= RISE - 1e-6)
        counted_rise, counted_fall = rise & (self._lowest < DARKER_BELOW), fall & (luminance < DARKER_BELOW)
        self._direction = np.where(rise, 1.0, np.where(fall, -1.0, self._direction))
        self._highest = np.where(rise, luminance, self._highest)
        self._lowest = np.where(fall, luminance, self._lowest)
        return float(counted_rise.mean()), float(counted_fall.mean())


class FlashSafety(Accumulator):
    """Largest number of general flashes within any one second (WCAG 2.2, 2.3.1); more than 3 fail.

    Relative luminance of 8 × 8 cells; a flash is a rise and a fall (or the other way round) of at least a
    tenth, the darker end below 0.8, that at least a quarter of the cells make at the same frame. Cuts count
    like any change. Detail `passes`: 1 or 0. Not checked: saturated red flashes, patterns, the size of the
    picture on the viewer's screen.
    """

    view = Frame

    def __init__(self) -> None:
        self._finder = TransitionFinder()
        self._direction = 0
        self._recent: deque[float] = deque()
        self._flashes = Series()

    def look(self, view: Frame) -> tuple[float, Cells]:
        """Return the time of the frame in seconds and the luminance of its cells."""
        return view.time, relative_luminance(view.rgb)

    def add(self, index: int, row: tuple[float, Cells]) -> None:
        """Count the transitions of the second that ends with this frame."""
        time, luminance = row
        risen, fallen = self._finder.add(luminance.ravel())
        for share, direction in ((risen, 1), (fallen, -1)):
            if share >= AREA and direction != self._direction:
                self._recent.append(time)
                self._direction = direction
        while self._recent and self._recent[0] <= time - 1 + 1e-9:
            self._recent.popleft()
        self._flashes.add(index, float(len(self._recent) // 2))

    def result(self, clip: ClipFacts) -> Reading:
        """Return the count of the worst second."""
        if not clip.complete:
            return Reading(None, "unmeasurable", note="needs every frame")
        if len(self._flashes) < 3:
            return Reading(None, "too_short", note="needs 3 frames")
        value = float(self._flashes.values.max())
        details = {"passes": float(value <= ALLOWED)}
        status = clip.status(len(self._flashes))
        return Reading(value, status, self._flashes, details=details)
