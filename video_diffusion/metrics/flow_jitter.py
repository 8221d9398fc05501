"""A6, flow jitter: motion that stops and starts, as from doubled or dropped frames."""

import cv2
import numpy as np

from video_diffusion.metrics.accumulator import LEAST_COVERAGE, Accumulator, ClipFacts
from video_diffusion.metrics.optical_flow import pixel_grid
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Triple


class FlowJitter(Accumulator):
    """Mean over pixels and frames of |F₊(x + F(x)) − F(x)| · 256 / min(height, width), in px/frame² at 256.

    The change of a point's own velocity from one step to the next: 0 on a constant pan, 2v on a pan of v
    shown on twos. A smooth turn accelerates too: the detail `uneven`, mean minus median over frames, stays
    near 0 for any steady motion and rises with each frame that was dropped or doubled.
    """

    view = Triple

    def __init__(self) -> None:
        self._jitter = Series()
        self._num_triples = 0

    def look(self, view: Triple) -> float | None:
        """Return the mean change of velocity, None when no pixel can be followed through all three frames."""
        flow, next_flow = view.before.forward, view.after.forward
        target = pixel_grid(*flow.shape[:2]) + flow
        later = cv2.remap(next_flow, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        next_valid = view.after.forward_valid.astype(np.uint8)
        later_valid = cv2.remap(next_valid, target, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        valid = view.before.forward_valid & (later_valid > 0)
        if not valid.any():
            return None
        change_x, change_y = cv2.split(later - flow)
        mean = cv2.mean(np.sqrt(change_x**2 + change_y**2), valid.astype(np.uint8))[0]
        return float(mean) * 256 / min(flow.shape[:2])

    def add(self, index: int, row: float | None) -> None:
        """Remember the jitter."""
        self._num_triples += 1
        if row is not None:
            self._jitter.add(index, row)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        coverage, series = clip.coverage.mean(), self._jitter
        if not self._num_triples:
            return Reading(None, "too_short", note="needs 3 frames of one shot")
        if not coverage >= LEAST_COVERAGE or not len(series):
            return Reading(None, "unmeasurable", series, coverage)
        value = self._jitter.mean()
        details = {"uneven": value - float(np.median(self._jitter.values))}
        return Reading(value, clip.status(len(series), coverage), series, coverage, details)
