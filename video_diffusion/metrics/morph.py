"""Morphing: things that change shape though nothing moved them so, and how well pixels fit once moved.

Flow explains a deformation, so what is measured after motion compensation looks clean. But rigid motion keeps
the distances between points of one thing, and steady motion changes them in one direction: `Morph` measures
the way that distances go to and fro.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from video_diffusion.metrics.flow import Levels, Mask
from video_diffusion.metrics.image import MARGIN, WINDOW, similarity_map
from video_diffusion.metrics.points import POINT_CELLS, Grid, PointMotion, spread
from video_diffusion.metrics.report import (
    LEAST_COVERAGE,
    Accumulator,
    ClipFacts,
    Reading,
    Series,
    SeriesAccumulator,
)
from video_diffusion.metrics.views import Cells, Frame, Pair, Triple, cell_means, luma

REACH = (6, 10, 16, 24)
"""Distances of pairs in cells, where points are many."""
NEAREST, FARTHEST = 5.5, 32.0
"""In cells: all pairs as far apart as this where points are few, so that no size of a thing is missed."""
MOST_PAIRS = 100_000
MOST_UNEXPLAINED = 8.0
"""In px at 256: what a point that flow finds in neither neighbour is given at most."""
FEWEST_IN_CELL = 2
POOLING = 3
"""Exponent of the mean over points: a small thing that breathes before still ground shows, as it does to the
eye (Quick 1974; Wang and Shang 2006 on pooling). 2 tells less, 4 lifts noise above what may be morphing."""
LEAST_WEIGHT = 1e-3
"""Pairs whose gradients lie less along the line that joins them see nothing of its length."""


@lru_cache(maxsize=8)
def _half_of_pairs(cell: float) -> tuple[tuple[int, int], ...]:
    """Steps in cells from p to q: 8 of the 16 directions, the others are the same pairs from q."""
    angles = np.arange(8) * np.pi / 8
    steps = [(round(reach * np.cos(angle) * cell), round(reach * np.sin(angle) * cell))
             for reach in REACH for angle in angles]  # fmt: skip
    return tuple(dict.fromkeys(steps))


def _pairs(
    counts: Bool[np.ndarray, "rows columns"], cell: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the points p and q of pairs, among the cells that count, and the share of each pair.

    All pairs of few points, each ring of distances with an equal share; of many points those of `REACH`.
    """
    rows, columns = counts.shape
    few = int(counts.sum())
    if few * (few - 1) <= 2 * MOST_PAIRS:
        y, x = (each.astype(np.float32) for each in np.nonzero(counts))
        p, q = np.triu_indices(few, 1)
        distance = np.hypot(x[q] - x[p], y[q] - y[p]) / np.float32(cell)
        near = (distance >= NEAREST) & (distance <= FARTHEST)
        return p[near], q[near], 1 / distance[near]
    number = np.cumsum(counts.ravel()).reshape(counts.shape) - 1
    first, second = [], []
    for right, down in _half_of_pairs(cell):
        if down >= rows or abs(right) >= columns:
            continue
        here = (slice(0, rows - down), slice(max(0, -right), columns - max(0, right)))
        there = (slice(down, rows), slice(max(0, right), columns - max(0, -right)))
        both = counts[here] & counts[there]
        first.append(number[here][both])
        second.append(number[there][both])
    p, q = (np.concatenate([*ends, np.empty(0, int)]) for ends in (first, second))
    return p, q, np.ones(len(p), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Morphing:
    """What one triple shows.

    Attributes:
        moved: m of the points that have pairs, px at 256; NaN elsewhere.
        unexplained: that of points found in neither neighbour where they are the most; NaN elsewhere.
        num_steep: points.
        num_believed: of these towards both neighbours.
    """

    moved: Grid
    unexplained: Grid
    num_steep: int
    num_believed: int

    @property
    def level(self) -> float:
        """Power mean over all points, NaN when there are none."""
        values = np.concatenate([each[np.isfinite(each)] for each in (self.moved, self.unexplained)])
        if not values.size:
            return float("nan")
        return float(np.mean(values.astype(np.float64) ** POOLING) ** (1 / POOLING))

    @property
    def map(self) -> Grid:
        """Both on one grid for the eye: each point three cells wide, 0 where there is none."""
        return cv2.dilate(np.nan_to_num(np.fmax(self.moved, self.unexplained), nan=0), np.ones((3, 3)))


def morphing(points: PointMotion) -> Morphing:
    """Find how far distances between points of the middle frame go to and fro over its two steps."""
    believed = points.believed
    moved = np.full(believed.shape, np.nan, dtype=np.float32)
    moved[believed] = points.scale * _to_and_fro(
        points.grid.place[believed],
        points.to_before[believed],
        points.to_after[believed],
        points.tensor[believed],
        *_pairs(believed, 256 / POINT_CELLS / points.scale / points.cell),
    )
    crowd = spread(points.neither.astype(np.float32) - believed.astype(np.float32), 3)
    error = np.minimum(points.error * points.scale / 2, np.float32(MOST_UNEXPLAINED))
    unexplained = np.where(points.neither & (crowd > 0), error, np.float32(np.nan))
    return Morphing(moved, unexplained, int(points.grid.steep.sum()), int(believed.sum()))


def _to_and_fro(
    place: Float32[np.ndarray, "points 2"],
    to_before: Float32[np.ndarray, "points 2"],
    to_after: Float32[np.ndarray, "points 2"],
    tensor: Float32[np.ndarray, "points 3"],
    p: np.ndarray,
    q: np.ndarray,
    share: np.ndarray,
) -> Float32[np.ndarray, "points"]:
    """M of each point: weighted mean over its pairs of (|s₀| + |s₁| − |s₀ + s₁|) / 4, NaN without pairs."""
    x, y = np.ascontiguousarray(place.T)
    here_x, here_y = x[q] - x[p], y[q] - y[p]
    distance = np.sqrt(here_x * here_x + here_y * here_y)
    e_x, e_y = here_x / distance, here_y / distance
    t_xx, t_xy, t_yy = tensor.T / np.maximum(tensor[:, 0] + tensor[:, 2], 1e-9)
    weight = np.ones_like(distance)
    for end in (p, q):
        weight *= e_x * e_x * t_xx[end] + 2 * e_x * e_y * t_xy[end] + e_y * e_y * t_yy[end]
    weight *= weight
    seen = weight > LEAST_WEIGHT
    weight *= share
    p, q, weight, distance, here_x, here_y = (each[seen] for each in (p, q, weight, distance, here_x, here_y))
    steps = []
    for motion, sign in ((to_before, -1), (to_after, 1)):
        m_x, m_y = np.ascontiguousarray(motion.T)
        there_x, there_y = here_x + m_x[q] - m_x[p], here_y + m_y[q] - m_y[p]
        steps.append(sign * (np.sqrt(there_x * there_x + there_y * there_y) - distance))

    def total(values: np.ndarray) -> np.ndarray:
        """Sum over the pairs of each point, from either end."""
        return np.bincount(p, values, len(place)) + np.bincount(q, values, len(place))

    lengths = np.maximum(total(weight * distance), 1e-9)
    growth = [total(weight * step) / lengths for step in steps]
    steady = growth[0] * growth[1] > 0
    sums = np.zeros(len(place))
    for end in (p, q):  # each end takes its own steady growth out
        s_0, s_1 = (
            step - np.where(steady, each, 0)[end] * distance for step, each in zip(steps, growth, strict=True)
        )
        way = (np.abs(s_0) + np.abs(s_1) - np.abs(s_0 + s_1)) / 4
        sums += np.bincount(end, weight * way, len(place))
    weights = total(weight)
    return np.where(weights > 1e-6, sums / np.maximum(weights, 1e-9), np.nan).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _MorphRow:
    level: float
    num_steep: int
    num_believed: int
    cell_sums: Cells
    cell_counts: Cells


class Morph(Accumulator):
    """How far points of the image move against each other to and fro, in px per frame of an image 256 high.

    Rigid motion keeps the distances between points of one thing; zoom, stutter and acceleration change them
    in one direction; morphing changes them to and fro. Per triple of frames: the way that a distance goes
    over two steps beyond its net way, over 4, mean over pairs of edge points whose gradients lie along the
    line that joins them; then the cubic mean over points. ±a on alternate
    frames gives a; steady motion gives 0 however fast it turns.

    0 to 0.05 is clean, 0.1 is visible on a close look, 0.5 and more plainly breathes. What reverses within
    three frames counts too (walking legs, water): compare settings on the same prompts. Details: `worst_cell`
    of 8 × 8, where a small thing morphs before a still background, and `believed`, the share of edge points
    found in both neighbours; below one half the number stands and the status is `unmeasurable`.
    """

    view = Triple

    def __init__(self) -> None:
        self._series = Series()
        self._steep = self._believed = 0
        self._sums: Cells | None = None
        self._counts: Cells | None = None
        self._num_triples = 0

    def look(self, view: Triple) -> _MorphRow | None:
        """Return the level, and sums over the points of each cell, None where there is no flow."""
        if not (view.before.has_flow and view.after.has_flow):
            return None
        found = morphing(view.points)
        known = np.isfinite(found.moved)
        sums = cell_means(np.where(known, found.moved, np.float32(0)))
        counts = cell_means(known.astype(np.float32)) * known.size / sums.size
        return _MorphRow(
            found.level, found.num_steep, found.num_believed, sums * known.size / sums.size, counts
        )

    def add(self, index: int, row: _MorphRow | None) -> None:
        """Remember the number, and add up those of the cells."""
        if row is None:
            return
        self._num_triples += 1
        self._steep += row.num_steep
        self._believed += row.num_believed
        self._sums = row.cell_sums if self._sums is None else self._sums + row.cell_sums
        self._counts = row.cell_counts if self._counts is None else self._counts + row.cell_counts
        if np.isfinite(row.level):
            self._series.add(index, row.level)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        if not len(clip.change) or clip.num_frames < 3:
            return Reading(None, "too_short", note="needs 3 frames of one shot")
        if self._sums is None or self._counts is None or not len(self._series):
            note = "no edges whose flow is known" if self._num_triples else "needs 3 frames of one shot"
            return Reading(None, clip.status(len(clip.change), 0.0), note=note)
        believed = self._believed / self._steep if self._steep else 1.0
        enough = self._counts >= FEWEST_IN_CELL * self._num_triples
        cells = np.where(enough, self._sums / np.maximum(self._counts, 1), 0)
        details = {"worst_cell": float(cells.max()), "believed": believed}
        status = clip.status(len(self._series), believed)
        return Reading(self._series.mean(), status, self._series, clip.coverage.mean(), details)


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


HIGHEST = 100.0
"""In dB: what a perfect match is given, so that no infinity gets into a mean."""


def psnr(mean_square_error: float) -> float:
    """Return 10 log₁₀(255² / mean square error in levels²) in dB, 0 to `HIGHEST`."""
    if mean_square_error <= 0:
        return HIGHEST
    return min(HIGHEST, max(0.0, 10 * math.log10(255**2 / mean_square_error)))


def mean_square_error(warped: Levels, target: Levels, valid: Mask) -> float | None:
    """Mean squared difference over valid pixels and channels in levels², None when no pixel is valid."""
    count = int(np.count_nonzero(valid))
    if not count:
        return None
    return float(cv2.norm(warped, target, cv2.NORM_L2SQR, valid.astype(np.uint8))) / (3 * count)


class WarpPsnr(Accumulator):
    """PSNR in dB of the mean square error of warped against true frame, over believable pixels.

    Each pair is warped both ways and the errors averaged; the value is the PSNR of the mean error over
    pairs. Detail `warp_error`: E_warp as papers print it (Lai et al., ECCV 2018): mean over pairs of the mean
    square error of the next frame fetched onto this one, intensities in 0…1, here with our flow and mask.
    """

    view = Pair

    def __init__(self) -> None:
        self._errors = Series()
        self._onto_first = 0.0

    def look(self, view: Pair) -> tuple[float, float] | None:
        """Return the mean square errors both ways, None when there is no believable pixel one way."""
        onto_first = mean_square_error(view.second_on_first, view.first.levels, view.forward_valid)
        onto_second = mean_square_error(view.first_on_second, view.second.levels, view.backward_valid)
        return None if onto_first is None or onto_second is None else (onto_first, onto_second)

    def add(self, index: int, row: tuple[float, float] | None) -> None:
        """Remember the errors."""
        if row is not None:
            self._errors.add(index, sum(row) / 2)
            self._onto_first += row[0]

    def result(self, clip: ClipFacts) -> Reading:
        """Return the PSNR, none when too little of the image has believable flow."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        coverage = clip.coverage.mean()
        series = self._errors.replaced(lambda errors: [psnr(error) for error in errors.tolist()])
        if coverage < LEAST_COVERAGE:
            return Reading(None, "unmeasurable", series, coverage)
        details = {"warp_error": self._onto_first / len(self._errors) / 255**2}
        status = clip.status(len(self._errors), coverage)
        return Reading(psnr(self._errors.mean()), status, series, coverage, details)


def similarity(warped: Levels, target: Frame, valid: Mask) -> float | None:
    """Mean SSIM of luma over pixels whose whole window is valid, None when there is no such pixel."""
    whole = cv2.erode(
        valid.astype(np.uint8),
        np.ones((WINDOW, WINDOW), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if min(valid.shape) <= 2 * MARGIN or not whole.any():
        return None
    return float(cv2.mean(similarity_map(luma(warped), target.luma), whole)[0])


class WarpSsim(Accumulator):
    """Mean SSIM of warped against true luma over believable pixels (mask eroded by 5), both ways, −1…1."""

    view = Pair

    def __init__(self) -> None:
        self._similarities = Series()

    def look(self, view: Pair) -> float | None:
        """Return the similarity of one pair, None when there is no believable window one way."""
        onto_first = similarity(view.second_on_first, view.first, view.forward_valid)
        onto_second = similarity(view.first_on_second, view.second, view.backward_valid)
        return None if onto_first is None or onto_second is None else (onto_first + onto_second) / 2

    def add(self, index: int, row: float | None) -> None:
        """Remember the similarity."""
        if row is not None:
            self._similarities.add(index, row)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs, none when too little of the picture has believable flow."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        coverage, series = clip.coverage.mean(), self._similarities
        if coverage < LEAST_COVERAGE or not len(series):
            return Reading(None, "unmeasurable", series, coverage)
        return Reading(self._similarities.mean(), clip.status(len(series), coverage), series, coverage)
