"""Mean luma: flicker is in absolute levels, so a dark clip has less of it and must be seen to be dark."""

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Frame


class MeanLuma(SeriesAccumulator):
    """Mean of Y = 0.299 R + 0.587 G + 0.114 B over pixels and frames, in 8-bit levels."""

    view = Frame

    def look(self, view: Frame) -> float:
        """Return mean luma of one frame."""
        return view.mean_luma

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        return Reading(self.series.mean(), "has_cut" if clip.cuts else "ok", self.series)
