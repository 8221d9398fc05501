"""Whether the subject stays itself, as DINO sees it: VBench's subject consistency, its two terms apart."""

from video_diffusion.metrics.accumulator import Accumulator, ClipFacts
from video_diffusion.metrics.learned.image_encoder import Embedding, ImageEncoder
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Frame


class SubjectConsistency(Accumulator):
    """Mean over frames t ≥ 1 of ½ (max(0, cos(f₋₁, f)) + max(0, cos(f₀, f))), 0…1.

    The formula of vbench/subject_consistency.py. Details: `previous` and `first`, the two terms; the first
    one falls with the length of the clip, so compare equal lengths. Unlike VBench the mean is over the
    frames of a shot, and the weights may be DINO's or DINOv2's.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder):
        self._encoder = encoder
        self._both, self._to_previous, self._to_first = Series(), Series(), Series()
        self._first: Embedding | None = None
        self._previous: Embedding | None = None

    def look(self, view: Frame) -> Embedding:
        """Return the vector of one frame."""
        return self._encoder.embed(view.rgb)

    def add(self, index: int, row: Embedding) -> None:
        """Compare with the frame before and with the first of the shot."""
        if self._first is None or self._previous is None:
            self._first = row
        else:
            previous, first = max(0.0, float(self._previous @ row)), max(0.0, float(self._first @ row))
            self._to_previous.add(index, previous)
            self._to_first.add(index, first)
            self._both.add(index, (previous + first) / 2)
        self._previous = row

    def new_shot(self) -> None:
        """Forget the shot that ended."""
        self._first = self._previous = None

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        if not len(self._both):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        details = {"previous": self._to_previous.mean(), "first": self._to_first.mean()}
        status = clip.status(len(self._both))
        return Reading(self._both.mean(), status, self._both, details=details, note=self._encoder.note)
