"""Motion: how far things move, so that a clip cannot win on flicker by standing still, and how evenly."""

import cv2
import numpy as np
from jaxtyping import Float32

from video_diffusion.metrics.flow import pixel_grid
from video_diffusion.metrics.report import LEAST_COVERAGE, Accumulator, ClipFacts, Reading, Series
from video_diffusion.metrics.views import Pair, Triple

STATIC_MEAN, STATIC_FASTEST = 0.5, 1.0
"""In px/frame at 256. Flow on a still picture with noise of σ 16 reads 0.43 and 0.9: that is no motion."""

DYNAMIC_ABOVE = 6.0
"""In px per eighth of a second at 256: VBench's threshold for a dynamic clip (there with RAFT)."""


def fastest(speeds: Float32[np.ndarray, "pixels"], share: float = 0.05) -> float:
    """Return the mean of the largest `share` of the speeds, at least one of them."""
    count = max(1, round(share * speeds.size))
    return float(np.partition(speeds, speeds.size - count)[-count:].mean(dtype=np.float64))


class Motion(Accumulator):
    """Mean |F| over believable pixels, scaled by 256 / min(height, width): px/frame of a picture 256 high.

    Details: `fastest` (mean of the fastest 5 % of pixels), `per_second` (the value by the frames' own times),
    `dynamic` (1 when the fastest move more than `DYNAMIC_ABOVE` in an eighth of a second). `static` when the
    mean stays below `STATIC_MEAN` and the fastest below `STATIC_FASTEST`.
    """

    view = Pair

    def __init__(self) -> None:
        self._mean = Series()
        self._fastest = Series()
        self._seconds = 0.0

    def look(self, view: Pair) -> tuple[float, float, float] | None:
        """Return mean and fastest way of one pair and its seconds, None when no pixel has believable flow."""
        speeds = np.hypot(view.forward[..., 0], view.forward[..., 1])[view.forward_valid]
        if not speeds.size:
            return None
        scale = 256 / min(view.first.rgb.shape[:2])
        return float(speeds.mean(dtype=np.float64)) * scale, fastest(speeds) * scale, view.seconds

    def add(self, index: int, row: tuple[float, float, float] | None) -> None:
        """Remember both ways and add up the time they took."""
        if row is not None:
            self._mean.add(index, row[0])
            self._fastest.add(index, row[1])
            self._seconds += row[2]

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs."""
        coverage = clip.coverage.mean()
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        if not coverage >= LEAST_COVERAGE:
            return Reading(None, "unmeasurable", self._mean, coverage)
        top = self._fastest.mean()
        per_second = len(self._mean) / self._seconds if self._seconds > 0 else float(clip.fps)
        details = {
            "fastest": top,
            "per_second": self._mean.mean() * per_second,
            "dynamic": float(top * per_second / 8 > DYNAMIC_ABOVE),
        }
        is_static = self._mean.mean() < STATIC_MEAN and top < STATIC_FASTEST
        status = "static" if is_static else clip.status(len(self._mean), coverage)
        return Reading(self._mean.mean(), status, self._mean, coverage, details)


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
