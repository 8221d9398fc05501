"""A2, flicker, the headline: change from frame to frame that motion does not explain."""

import numpy as np

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Triple


class Flicker(SeriesAccumulator):
    """Mean over frames of the second difference along the flow, in 8-bit levels (see `residual`).

    ±a levels on alternate frames give a; a constant pan and a steady fade give 0. The detail `p95` is the
    95th percentile over frames. With coverage below one half the number still stands, because unexplained
    change counts in it, and the status says `unmeasurable`: most of it is then change that no motion
    explains rather than flicker on known motion.
    """

    view = Triple

    def look(self, view: Triple) -> float:
        """Return the flicker at the centre frame."""
        return view.residual.level

    def add(self, index: int, row: float) -> None:
        """Remember the number, unless no pixel counted."""
        if np.isfinite(row):
            super().add(index, row)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        if not len(self.series):
            return Reading(None, "too_short", note="needs 3 frames of one shot")
        coverage = clip.coverage.mean()
        return Reading(
            value=self.series.mean(),
            status=clip.status(len(self.series), coverage),
            series=self.series,
            coverage=coverage,
            details={"p95": float(np.percentile(self.series.values, 95))},
        )
