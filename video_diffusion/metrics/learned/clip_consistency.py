"""Whether the frames go on showing the same thing, as CLIP sees it: neighbours, and all pairs."""

import numpy as np

from video_diffusion.metrics.accumulator import Accumulator, ClipFacts
from video_diffusion.metrics.learned.image_encoder import Embedding, ImageEncoder
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Frame


class ClipAdjacent(Accumulator):
    """Mean cosine of the CLIP vectors of neighbouring frames, −1…1.

    CLIP sees 224 pixels: it cannot see fine flicker. Cosines crowd near 1, so compare differences of pairs.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder):
        self._encoder = encoder
        self._series = Series()
        self._previous: Embedding | None = None

    def look(self, view: Frame) -> Embedding:
        """Return the vector of one frame."""
        return self._encoder.embed(view.rgb)

    def add(self, index: int, row: Embedding) -> None:
        """Compare with the frame before, in the same shot."""
        if self._previous is not None:
            self._series.add(index, float(self._previous @ row))
        self._previous = row

    def new_shot(self) -> None:
        """Forget the frame before."""
        self._previous = None

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over neighbours."""
        if not len(self._series):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        return Reading(
            self._series.mean(), clip.status(len(self._series)), self._series, note=self._encoder.note
        )


class ClipAllPairs(Accumulator):
    """Mean cosine of the CLIP vectors of all pairs of frames of a shot, −1…1: slow drift shows, too.

    From the sum s of n unit vectors: (|s|² − n) / (n (n − 1)), so that nothing but s is kept. It falls with
    the length of a drifting clip: compare equal lengths. The series is the mean cosine with all earlier
    frames of the shot.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder):
        self._encoder = encoder
        self._series = Series()
        self._sum: Embedding | None = None
        self._count = 0
        self._cosines, self._pairs = 0.0, 0

    def look(self, view: Frame) -> Embedding:
        """Return the vector of one frame."""
        return self._encoder.embed(view.rgb)

    def add(self, index: int, row: Embedding) -> None:
        """Compare with all earlier frames of the shot."""
        if self._sum is None:
            self._sum, self._count = np.zeros_like(row), 0
        if self._count:
            cosines = float(self._sum @ row)
            self._series.add(index, cosines / self._count)
            self._cosines, self._pairs = self._cosines + cosines, self._pairs + self._count
        self._sum, self._count = self._sum + row, self._count + 1

    def new_shot(self) -> None:
        """Forget the earlier frames."""
        self._sum = None

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over all pairs."""
        if not self._pairs:
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        value = self._cosines / self._pairs
        return Reading(value, clip.status(self._pairs), self._series, note=self._encoder.note)
