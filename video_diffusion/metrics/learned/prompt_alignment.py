"""How well the frames show what the prompt says, as CLIP sees it."""

from video_diffusion.metrics.accumulator import ClipFacts, SeriesAccumulator
from video_diffusion.metrics.learned.image_encoder import Embedding, ImageEncoder
from video_diffusion.metrics.report import Reading, Status
from video_diffusion.metrics.views import Frame


class PromptAlignment(SeriesAccumulator):
    """100 × mean over frames of the cosine of frame and prompt (CLIPScore, Hessel et al. 2021, without w).

    Detail `lowest`: that of the worst frame, since a mean hides the frame where the subject is gone.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder, words: Embedding):
        super().__init__()
        self._encoder = encoder
        self._words = words

    def look(self, view: Frame) -> float:
        """Return the alignment of one frame."""
        return 100 * float(self._encoder.embed(view.rgb) @ self._words)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        details = {"lowest": float(self.series.values.min())}
        status: Status = "has_cut" if clip.cuts else "ok"
        return Reading(self.series.mean(), status, self.series, details=details, note=self._encoder.note)
