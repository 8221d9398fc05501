"""A12, drift: slow change of colour and layout that neighbouring frames hide."""

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, UInt8

from video_diffusion.metrics.flow import Plane, Rgb
from video_diffusion.metrics.image import MARGIN, similarity_map, similarity_of_moments
from video_diffusion.metrics.points import steepest_points
from video_diffusion.metrics.report import Accumulator, ClipFacts, Reading, Series
from video_diffusion.metrics.views import LUMA, Frame, luma

THUMBNAIL = 32
LONGEST_LAG = 2**20
STARTS_PER_LAG = 8
"""At lag Δ every frame is compared up to Δ = 8 and every Δ/8-th frame beyond, so that few portraits wait."""


TRACKED = 96
"""Shorter side in pixels of the images that points are tracked on."""
TRACK_CELLS = 24
LONGEST_TRACK = 256
PATCH = 3
"""Pixels on each side of a tracked point that are compared: 7 × 7 of an image 96 high."""
FEWEST_TRACKED = 8


@dataclass(frozen=True, eq=False)
class Arrival:
    """How the frame before moved into this one, on its own small grid; float16 to wait in little room.

    Attributes:
        flow: forward, in pixels of the small image.
        believed: share of each pixel whose flow is valid, above one half.
    """

    flow: Float16[np.ndarray, "h w 2"]
    believed: Bool[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class Portrait:
    """What drift remembers of a frame.

    Attributes:
        cumulative: histograms of Y, Cb, Cr in 0…1.
        thumbnail: luma, 32 × 32.
        small: RGB with a shorter side of 96 pixels.
        arrival: from the frame before, None without one or without flow.
    """

    cumulative: Float64[np.ndarray, "3 256"]
    thumbnail: Plane
    small: UInt8[np.ndarray, "small_h small_w 3"]
    arrival: Arrival | None = None


def histogram_distance(first: Portrait, second: Portrait) -> tuple[float, float]:
    """Wasserstein-1 distance of the luma histograms, and of both chroma histograms added, in levels."""
    distances = np.abs(first.cumulative - second.cumulative).sum(axis=1)
    return float(distances[0]), float(distances[1] + distances[2])


def thumbnail_similarity(first: Portrait, second: Portrait) -> float:
    """Mean SSIM of the thumbnails, windows that overlap the edge left out."""
    inner = similarity_map(first.thumbnail, second.thumbnail)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return float(inner.mean(dtype=np.float64))


def _shrunk(rgb: Rgb) -> UInt8[np.ndarray, "small_h small_w 3"]:
    share = TRACKED / min(rgb.shape[:2])
    if share >= 1:
        return rgb
    size = (round(rgb.shape[1] * share), round(rgb.shape[0] * share))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def arrival_of(frame: Frame, size: tuple[int, int]) -> Arrival | None:
    """Return how the frame before moved into this one, for images of (height, width) `size`."""
    pair = frame.arrival
    if pair is None or not pair.has_flow:
        return None
    flow, valid = pair.forward, pair.forward_valid.astype(np.float32)
    if flow.shape[:2] != size:
        scale = np.float32(size[0] / flow.shape[0])
        flow = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA) * scale
        valid = cv2.resize(valid, size[::-1], interpolation=cv2.INTER_AREA)
    return Arrival(flow.astype(np.float16), valid > 0.5)


class Anchor:
    """The points of one frame from which tracks start."""

    def __init__(self, start: Portrait):
        grid = steepest_points(luma(start.small.astype(np.float32)), TRACK_CELLS)
        self.place = grid.place[grid.steep].reshape(-1, 1, 2)
        self.patches = _patches(start.small, self.place)


class Track:
    """Points of one frame followed through the next ones, as long as their flow is believed."""

    def __init__(self, anchor: Anchor):
        self._anchor = anchor
        self.place = anchor.place.copy()
        self.alive = np.ones(len(self.place), dtype=bool)

    def follow(self, arrival: Arrival | None) -> None:
        """Move on by one frame."""
        if arrival is None or not len(self.place):
            self.alive[:] = False
            return
        height, width = arrival.believed.shape
        x, y = (np.clip(np.rint(self.place[:, 0, axis]).astype(int), 0, side - 1)
                for axis, side in enumerate((width, height)))  # fmt: skip
        believed = arrival.believed[y, x]
        flow = arrival.flow.astype(np.float32)
        self.place += cv2.remap(flow, self.place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = ((self.place >= 0) & (self.place <= (width - 1, height - 1))).all(axis=(1, 2))
        self.alive &= believed & inside

    def compare(self, portrait: Portrait) -> tuple[float, float, float] | None:
        """Share of points still followed, SSIM and colour distance of their patches; None with too few."""
        if len(self.place) < FEWEST_TRACKED:
            return None
        share = float(self.alive.mean())
        if np.count_nonzero(self.alive) < FEWEST_TRACKED:
            return share, float("nan"), float("nan")
        first, now = self._anchor.patches[self.alive], _patches(portrait.small, self.place[self.alive])
        colour = float(np.abs(first.mean(axis=1) - now.mean(axis=1)).mean(dtype=np.float64))
        grey = [patches @ np.array(LUMA, dtype=np.float32) for patches in (first, now)]
        means, variances = ([function(each, axis=1) for each in grey] for function in (np.mean, np.var))
        covariance = (grey[0] * grey[1]).mean(axis=1) - means[0] * means[1]
        similar = similarity_of_moments(means[0], means[1], variances[0] + variances[1], covariance)
        return share, float(similar.mean(dtype=np.float64)), colour


def _patches(small: Rgb, place: Float32[np.ndarray, "points 1 2"]) -> Float32[np.ndarray, "points pixels 3"]:
    if not len(place):
        return np.zeros((0, (2 * PATCH + 1) ** 2, 3), dtype=np.float32)
    steps = np.arange(-PATCH, PATCH + 1, dtype=np.float32)
    around = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(1, -1, 2)
    fetched = cv2.remap(small, place + around, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return fetched.reshape(len(place), -1, 3).astype(np.float32)


@dataclass
class _Lag:
    """Comparisons at one lag: the portraits that still wait for their partner, and the sums so far."""

    lag: int
    waiting: deque[tuple[int, Portrait]] = field(default_factory=deque)
    count: int = 0
    totals: Float64[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))
    track: Track | None = None
    tracked: list[tuple[float, float, float]] = field(default_factory=list)

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

    Along the motion, what stays of things: edge points are followed over each lag Δ, and `tracked_Δ` is the
    share of them still believed, `ssim_Δ` the SSIM and `colour_Δ` the distance in levels of their patches
    of 7 × 7 pixels at 96; `ssim_slope` and `colour_slope` are those of straight lines against the lag. A
    thing that slowly becomes another loses its patches though no two neighbours differ.
    """

    view = Frame

    def __init__(self) -> None:
        self._from_start = Series()
        self._lags = [_Lag(2**power) for power in range(LONGEST_LAG.bit_length())]
        self._start: Portrait | None = None
        self._position = 0

    def look(self, view: Frame) -> Portrait:
        """Return the portrait of one frame."""
        small = _shrunk(view.rgb)
        planes = cv2.split(cv2.cvtColor(view.rgb, cv2.COLOR_RGB2YCrCb))
        counts = [cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel() for plane in planes]
        cumulative = np.cumsum(np.array(counts, dtype=np.float64), axis=1) / planes[0].size
        thumbnail = cv2.resize(view.luma, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        return Portrait(cumulative, thumbnail, small, arrival_of(view, small.shape[:2]))

    def add(self, index: int, row: Portrait) -> None:
        """Compare with the frames that lie a lag before."""
        if self._start is None:
            self._start, self._position = row, 0
        self._from_start.add(index, sum(histogram_distance(self._start, row)))
        anchor = Anchor(row)
        for lag in self._lags:
            if lag.waiting and lag.waiting[0][0] == self._position - lag.lag:
                _, earlier = lag.waiting.popleft()
                lag.totals += (*histogram_distance(earlier, row), thumbnail_similarity(earlier, row))
                lag.count += 1
            if self._position % lag.step == 0:
                lag.waiting.append((self._position, row))
            if lag.lag <= LONGEST_TRACK:
                self._follow(lag, row, anchor)
        self._position += 1

    def _follow(self, lag: _Lag, row: Portrait, anchor: Anchor) -> None:
        if lag.track is not None:
            lag.track.follow(row.arrival)
        if self._position % lag.lag == 0:
            found = lag.track.compare(row) if lag.track is not None else None
            if found is not None:
                lag.tracked.append(found)
            lag.track = Track(anchor)

    def new_shot(self) -> None:
        """Forget the portraits of the shot that ended; its sums stay."""
        self._start = None
        for lag in self._lags:
            lag.waiting.clear()
            lag.track = None

    def result(self, clip: ClipFacts) -> Reading:
        """Return the slopes."""
        if not clip.complete:
            return Reading(None, "unmeasurable", note="needs every frame")
        lags = [lag for lag in self._lags if lag.count]
        if len(lags) < 2:
            return Reading(None, "too_short", self._from_start, note="needs 3 frames of one shot")
        means = np.array([lag.totals / lag.count for lag in lags])
        fading, chroma, layout = np.polyfit([lag.lag for lag in lags], means, 1)[0].tolist()
        details = {"luma": fading, "chroma": chroma, "thumbnail_ssim": layout}
        details |= self._tracked()
        value = max(0.0, fading) + max(0.0, chroma)
        return Reading(value, clip.status(len(lags)), self._from_start, details=details)

    def _tracked(self) -> dict[str, float]:
        """The curves over the lags and their slopes."""
        details, curve = {}, []
        for lag in self._lags:
            if not lag.tracked:
                continue
            share, ssim, colour = np.array(lag.tracked).T
            details[f"tracked_{lag.lag}"] = float(share.mean())
            if np.isfinite(ssim).any():
                row = (float(np.nanmean(ssim)), float(np.nanmean(colour)))
                details |= {f"ssim_{lag.lag}": row[0], f"colour_{lag.lag}": row[1]}
                curve.append((lag.lag, *row))
        if len(curve) > 1:
            lags, *rows = np.array(curve).T
            slopes = np.polyfit(lags, np.array(rows).T, 1)[0].tolist()
            details |= {"ssim_slope": slopes[0], "colour_slope": slopes[1]}
        return details
