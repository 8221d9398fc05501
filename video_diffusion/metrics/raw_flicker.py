"""A1, raw flicker: how much neighbouring frames differ, with motion counted as if it were flicker."""

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Pair


class RawFlicker(SeriesAccumulator):
    """R = mean over pairs, pixels and channels of |I₊ − I| / 255, in 0…1.

    VBench's temporal flickering is 1 − R (vbench/temporal_flickering.py, 2024), here in exact integer sums;
    it is given as the detail `vbench_temporal_flickering`. Every clean pan raises R: see docs/metrics.md
    for why it is not the headline.
    """

    view = Pair

    def look(self, view: Pair) -> float:
        """Return R of one pair."""
        return view.change / 255

    def result(self, clip: ClipFacts) -> Reading:
        """Return R and VBench's form of it."""
        if not len(self.series):
            return Reading(None, "too_short", note="needs 2 frames")
        value = self.series.mean()
        details = {"vbench_temporal_flickering": 1 - value}
        return Reading(value, clip.status(len(self.series)), self.series, details=details)
