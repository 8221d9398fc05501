"""A7, motion: how far things move, so that a clip cannot win on flicker by standing still."""

import numpy as np
from jaxtyping import Float32

from video_diffusion.metrics.accumulator import LEAST_COVERAGE, Accumulator, ClipFacts
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Pair

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

    Details: `fastest` (mean of the fastest 5 % of pixels), `per_second` (the value times fps), `dynamic` (1
    when the fastest move more than `DYNAMIC_ABOVE` in an eighth of a second). `static` when the mean stays
    below `STATIC_MEAN` and the fastest below `STATIC_FASTEST`.
    """

    view = Pair

    def __init__(self) -> None:
        self._mean = Series()
        self._fastest = Series()

    def look(self, view: Pair) -> tuple[float, float] | None:
        """Return mean and fastest speed of one pair, None when no pixel has believable flow."""
        speeds = np.hypot(view.forward[..., 0], view.forward[..., 1])[view.forward_valid]
        if not speeds.size:
            return None
        scale = 256 / min(view.first.rgb.shape[:2])
        return float(speeds.mean(dtype=np.float64)) * scale, fastest(speeds) * scale

    def add(self, index: int, row: tuple[float, float] | None) -> None:
        """Remember both speeds."""
        if row is not None:
            self._mean.add(index, row[0])
            self._fastest.add(index, row[1])

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs."""
        coverage = clip.coverage.mean()
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        if not coverage >= LEAST_COVERAGE:
            return Reading(None, "unmeasurable", self._mean, coverage)
        top = self._fastest.mean()
        details = {
            "fastest": top,
            "per_second": self._mean.mean() * float(clip.fps),
            "dynamic": float(top * float(clip.fps) / 8 > DYNAMIC_ABOVE),
        }
        is_static = self._mean.mean() < STATIC_MEAN and top < STATIC_FASTEST
        status = "static" if is_static else clip.status(len(self._mean), coverage)
        return Reading(self._mean.mean(), status, self._mean, coverage, details)
