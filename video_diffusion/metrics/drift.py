"""A12, drift: slow change of colour and layout that neighbouring frames hide."""

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float64

from video_diffusion.metrics.image import MARGIN, similarity_map
from video_diffusion.metrics.report import Accumulator, ClipFacts, Reading, Series
from video_diffusion.metrics.views import Frame, Plane

THUMBNAIL = 32
LONGEST_LAG = 2**20
STARTS_PER_LAG = 8
"""At lag Δ every frame is compared up to Δ = 8 and every Δ/8-th frame beyond, so that few portraits wait."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """What drift remembers of a frame: cumulative histograms of Y, Cb, Cr in 0…1 and a luma thumbnail."""

    cumulative: Float64[np.ndarray, "3 256"]
    thumbnail: Plane


def histogram_distance(first: Portrait, second: Portrait) -> tuple[float, float]:
    """Wasserstein-1 distance of the luma histograms, and of both chroma histograms added, in levels."""
    distances = np.abs(first.cumulative - second.cumulative).sum(axis=1)
    return float(distances[0]), float(distances[1] + distances[2])


def thumbnail_similarity(first: Portrait, second: Portrait) -> float:
    """Mean SSIM of the thumbnails, windows that overlap the edge left out."""
    inner = similarity_map(first.thumbnail, second.thumbnail)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return float(inner.mean(dtype=np.float64))


@dataclass
class _Lag:
    """Comparisons at one lag: the portraits that still wait for their partner, and the sums so far."""

    lag: int
    waiting: deque[tuple[int, Portrait]] = field(default_factory=deque)
    count: int = 0
    totals: Float64[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))

    @property
    def step(self) -> int:
        return max(1, self.lag // STARTS_PER_LAG)


class Drift(Accumulator):
    """Slope of the histogram distance against the lag, in levels per frame.

    Frames Δ = 1, 2, 4, 8, … apart are compared within each shot by the Wasserstein-1 distance of their luma
    histograms plus that of both chroma histograms, and a straight line is fitted to the means by least
    squares: flicker and noise, the same at every lag, go into its intercept. A fade of r levels per frame
    gives r; a negative slope, change that does not add up, counts as 0. Details: `luma` and `chroma` (the
    slopes apart) and `thumbnail_ssim` (slope of the SSIM of 32-pixel thumbnails, negative when the layout
    changes, as it does under camera motion too). The series is the distance from the first frame of the
    shot.
    """

    view = Frame

    def __init__(self) -> None:
        self._from_start = Series()
        self._lags = [_Lag(2**power) for power in range(LONGEST_LAG.bit_length())]
        self._start: Portrait | None = None
        self._position = 0

    def look(self, view: Frame) -> Portrait:
        """Return the portrait of one frame."""
        planes = cv2.split(cv2.cvtColor(view.rgb, cv2.COLOR_RGB2YCrCb))
        counts = [cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel() for plane in planes]
        cumulative = np.cumsum(np.array(counts, dtype=np.float64), axis=1) / planes[0].size
        return Portrait(
            cumulative, cv2.resize(view.luma, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        )

    def add(self, index: int, row: Portrait) -> None:
        """Compare with the frames that lie a lag before."""
        if self._start is None:
            self._start, self._position = row, 0
        self._from_start.add(index, sum(histogram_distance(self._start, row)))
        for lag in self._lags:
            if lag.waiting and lag.waiting[0][0] == self._position - lag.lag:
                _, earlier = lag.waiting.popleft()
                lag.totals += (*histogram_distance(earlier, row), thumbnail_similarity(earlier, row))
                lag.count += 1
            if self._position % lag.step == 0:
                lag.waiting.append((self._position, row))
        self._position += 1

    def new_shot(self) -> None:
        """Forget the portraits of the shot that ended; its sums stay."""
        self._start = None
        for lag in self._lags:
            lag.waiting.clear()

    def result(self, clip: ClipFacts) -> Reading:
        """Return the slopes."""
        if not clip.complete:
            return Reading(None, "unmeasurable", note="needs every frame")
        lags = [lag for lag in self._lags if lag.count]
        if len(lags) < 2:
            return Reading(None, "too_short", self._from_start, note="needs 3 frames of one shot")
        means = np.array([lag.totals / lag.count for lag in lags])
        luma, chroma, layout = np.polyfit([lag.lag for lag in lags], means, 1)[0].tolist()
        details = {"luma": luma, "chroma": chroma, "thumbnail_ssim": layout}
        value = max(0.0, luma) + max(0.0, chroma)
        return Reading(value, clip.status(len(lags)), self._from_start, details=details)
