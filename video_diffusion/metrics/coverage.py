"""A8, coverage: how much of the picture has believable flow, and how much change nothing explains."""

from video_diffusion.metrics.accumulator import LEAST_COVERAGE, ClipFacts, SeriesAccumulator
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Triple


class Coverage(SeriesAccumulator):
    """Mean share of pixels whose flow passes the forward–backward check, both directions, 0…1.

    Detail `unexplained`: share of pixels valid towards neither neighbour. Pixels that leave the picture
    lower the coverage but are not unexplained, because the other neighbour shows them.
    """

    view = Triple

    def look(self, view: Triple) -> float:
        """Return the share of pixels that neither neighbour explains."""
        return view.residual.unexplained

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        value = clip.coverage.mean()
        status = clip.status(len(clip.coverage), value)
        details = {"unexplained": self.series.mean()} if len(self.series) else {}
        note = "too little believable flow to speak for the clip" if value < LEAST_COVERAGE else ""
        return Reading(value, status, clip.coverage, value, details, note)
