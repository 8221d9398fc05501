"""Flicker: change from frame to frame that motion does not explain, of pixels, of brightness, at seams."""

from collections import deque
from collections.abc import Collection, Mapping
from itertools import combinations
from math import comb
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float64

from video_diffusion.metrics.flow import Rgb
from video_diffusion.metrics.report import Accumulator, ClipFacts, Reading, Series, SeriesAccumulator
from video_diffusion.metrics.views import Cells, Frame, Pair, Triple, cell_means


class RawFlicker(SeriesAccumulator):
    """R = mean over pairs, pixels and channels of |I₊ − I| / 255, in 0…1.

    VBench's temporal flickering (vbench/temporal_flickering.py, 2024) is 1 − R over all pairs as they are
    shown, across cuts and held frames too: the detail `vbench_temporal_flickering`, in exact integer sums.
    Every clean pan raises R: see docs/metrics.md for why it is not the headline.
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
        details = {"vbench_temporal_flickering": 1 - clip.shown_change.mean() / 255}
        return Reading(value, clip.status(len(self.series)), self.series, details=details)


class Flicker(Accumulator):
    """Mean over frames of the second difference along the flow, in 8-bit levels (see `residual`).

    ±a levels on alternate frames give a; a constant pan and a steady fade give 0. The detail `p95` is the
    95th percentile over frames; `undithered` is the flicker of change averaged over its surroundings, in
    which the pattern of a dithered palette (GIF) cancels, and noise of single pixels with it. With coverage
    below one half the number still stands, because unexplained change counts in it, and the status says
    `unmeasurable`: most of it is then change that no motion explains rather than flicker on known motion.
    """

    view = Triple

    def __init__(self) -> None:
        self.series = Series()
        self._undithered = 0.0

    def look(self, view: Triple) -> tuple[float, float]:
        """Return the flicker at the centre frame, and that of change averaged over its surroundings."""
        return view.residual.level, view.residual.smooth_level

    def add(self, index: int, row: tuple[float, float]) -> None:
        """Remember the numbers, unless no pixel counted."""
        if np.isfinite(row[0]):
            self.series.add(index, row[0])
            self._undithered += row[1]

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
            details={
                "p95": float(np.percentile(self.series.values, 95)),
                "undithered": self._undithered / len(self.series),
            },
        )


class LumaFlicker(Accumulator):
    """Root mean square over frames of the second difference of mean luma, over 4, in levels.

    ±a levels on alternate frames give a, a steady fade gives 0. Details, from the luma of what motion does
    not explain in 8 × 8 cells: `cells_rms` over frames and cells, `max_cell` of the worst cell over frames.
    """

    view = Triple

    def __init__(self) -> None:
        self._global = Series()
        self._cell_energy: Cells | None = None

    def look(self, view: Triple) -> tuple[float, Cells]:
        """Return the second difference of mean luma over 4, and the mean signed residual of each cell."""
        outer = view.before.first.mean_luma + view.after.second.mean_luma
        return (outer - 2 * view.centre.mean_luma) / 4, cell_means(view.residual.signed_luma)

    def add(self, index: int, row: tuple[float, Cells]) -> None:
        """Remember the global number and add up the energy of each cell."""
        self._global.add(index, abs(row[0]))
        self._cell_energy = row[1] ** 2 if self._cell_energy is None else self._cell_energy + row[1] ** 2

    def result(self, clip: ClipFacts) -> Reading:
        """Return the root mean squares."""
        if self._cell_energy is None:
            return Reading(None, "too_short", note="needs 3 frames of one shot")
        entries = len(self._global)
        details = {
            "cells_rms": float(np.sqrt(self._cell_energy.mean() / entries)),
            "max_cell": float(np.sqrt(self._cell_energy.max() / entries)),
        }
        value = float(np.sqrt(np.mean(self._global.values**2)))
        return Reading(value, clip.status(entries), self._global, details=details)


LEAST_FRAMES = 8
LONGEST_SEGMENT = 1024
"""Longer shots are cut into pieces of so many frames and their powers averaged (Bartlett 1948)."""

BANDS_HZ = (("below_3_hz", 0.0, 3.0), ("3_to_10_hz", 3.0, 10.0), ("above_10_hz", 10.0, float("inf")))
"""Drift and breathing; the flicker that eyes are most sensitive to; fast flicker."""

NO_POWER = 1e-6
"""In levels²: below this nothing varies, and a share of it would be 0/0."""


def periodogram(
    series: Float64[np.ndarray, "frames channels"],
    window: Literal["hann", "boxcar"] = "hann",
    detrend: Literal["linear", "constant"] = "linear",
) -> Float64[np.ndarray, "frequencies channels"]:
    """One-sided power at frequencies k/T cycles per frame, k = 0…⌊T/2⌋, in the square of the series' unit.

    Powers add up to the mean square of the detrended series (exactly for the boxcar, by Parseval; on
    average for the Hann window, whose energy is divided out).
    """
    num_frames = len(series)
    time = np.linspace(-1, 1, num_frames)
    trend = np.stack([np.ones(num_frames), time][: 1 if detrend == "constant" else 2], axis=1)
    level = series - trend @ np.linalg.lstsq(trend, series, rcond=None)[0]
    weights = np.ones(num_frames)
    if window == "hann":
        weights = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(num_frames) + 0.5) / num_frames)
    power = np.abs(np.fft.rfft(level * weights[:, np.newaxis], axis=0)) ** 2
    both_sides = np.full(len(power), 2.0)
    both_sides[0] = 1
    if num_frames % 2 == 0:
        both_sides[-1] = 1
    return power * both_sides[:, np.newaxis] / (num_frames * np.sum(weights**2))


class LumaSpectrum(Accumulator):
    """Share of the power of mean luma above a quarter of the frame rate, 0…1.

    Hann periodogram of the linearly detrended series of each shot. Details: `power` in levels²,
    `cells_share` (the same share for the power of all 8 × 8 cells together), and the power in three bands
    in Hz.
    """

    view = Frame

    def __init__(self) -> None:
        self._shot: list[tuple[float, Cells]] = []
        self._segments: list[tuple[int, Float64[np.ndarray, "frequencies 2"]]] = []

    def look(self, view: Frame) -> tuple[float, Cells]:
        """Return mean luma of the frame and of its cells."""
        return view.mean_luma, cell_means(view.luma)

    def add(self, index: int, row: tuple[float, Cells]) -> None:
        """Remember the row until the segment is full."""
        self._shot.append(row)
        if len(self._shot) == LONGEST_SEGMENT:
            self.new_shot()

    def new_shot(self) -> None:
        """Turn what the segment holds into powers."""
        if len(self._shot) >= LEAST_FRAMES:
            whole = np.array([[mean] for mean, _ in self._shot])
            cells = np.array([cells.ravel() for _, cells in self._shot])
            powers = np.stack([periodogram(whole)[:, 0], periodogram(cells).mean(axis=1)], axis=1)
            self._segments.append((len(self._shot), powers))
        self._shot = []

    def result(self, clip: ClipFacts) -> Reading:
        """Return the share of fast power, averaged over segments by their length."""
        self.new_shot()
        if not clip.uniform:
            return Reading(None, "unmeasurable", note="needs every frame, evenly spaced in time")
        if not self._segments:
            return Reading(None, "too_short", note=f"needs {LEAST_FRAMES} frames of one shot")
        total, fast = np.zeros(2), np.zeros(2)
        bands = {name: 0.0 for name, _, _ in BANDS_HZ}
        num_frames = sum(length for length, _ in self._segments)
        for length, powers in self._segments:
            cycles_per_frame = np.arange(len(powers)) / length
            total += powers.sum(axis=0) * length / num_frames
            fast += powers[cycles_per_frame > 0.25].sum(axis=0) * length / num_frames
            hertz = cycles_per_frame * float(clip.fps)
            for name, low, high in BANDS_HZ:
                in_band = (hertz >= low) & (hertz < high)
                bands[name] += float(powers[in_band, 0].sum()) * length / num_frames
        details = {"power": float(total[0]), **bands}
        if total[1] >= NO_POWER:
            details["cells_share"] = float(fast[1] / total[1])
        if total[0] < NO_POWER:
            return Reading(None, "static", details=details, note="mean luma does not vary about its trend")
        return Reading(float(fast[0] / total[0]), "has_cut" if clip.cuts else "ok", details=details)


DRAWS = 999
"""Placements of the seams tried for p when there are too many to try all."""


def excess(left: Mapping[int, float], seams: Collection[int]) -> float:
    """Mean at the seams of what motion leaves, minus its median elsewhere, in levels.

    Args:
        left: later frame of each pair → what its flow leaves of the change.
        seams: first frames of the later windows, all of them in `left`, but not all that are in it.
    """
    elsewhere = [value for index, value in left.items() if index not in seams]
    return float(np.mean([left[seam] for seam in seams]) - np.median(elsewhere))


def chance(left: Mapping[int, float], seams: Collection[int]) -> float:
    """Share of placements of as many seams whose excess is at least as large: p of a permutation test.

    All placements are tried when there are at most `DRAWS`, otherwise so many are drawn (seed 0), the true
    one counted in. The smallest p is one over the number of placements: 1/15 for one seam in 16 frames.
    """
    places, observed = list(left), excess(left, seams) - 1e-12
    if comb(len(places), len(seams)) <= DRAWS:
        return float(np.mean([excess(left, trial) >= observed for trial in combinations(places, len(seams))]))
    generator = np.random.default_rng(0)
    drawn = [set(generator.choice(places, len(seams), replace=False).tolist()) for _ in range(DRAWS)]
    return (1 + sum(excess(left, trial) >= observed for trial in drawn)) / (DRAWS + 1)


class SeamExcess(SeriesAccumulator):
    """What motion leaves at the known starts of context windows, minus its median elsewhere, in levels.

    Per pair of frames, e = mean |w − I| of the second frame fetched onto the first; a seam of A levels
    gives A. A difference, not a ratio: on a clean clip a ratio would divide by almost nothing. Detail `p`:
    how likely seams at random places would show as much. A jump at a known start is a seam and never a cut.
    """

    view = Pair

    def look(self, view: Pair) -> float:
        """Return what the flow leaves of the change."""
        return view.change_along_flow

    def result(self, clip: ClipFacts) -> Reading:
        """Return the excess, none when no window starts are known."""
        left, coverage = self.series.by_frame(), clip.coverage.mean()
        if not clip.window_starts:
            return Reading(None, "unmeasurable", note="no context windows known")
        seams = [start for start in clip.window_starts if start in left]
        if not seams or 2 * len(seams) > len(left):
            return Reading(
                None,
                "too_short",
                self.series,
                coverage,
                note="needs more frames away from seams than at them",
            )
        value, details = excess(left, seams), {"p": chance(left, seams), "seams": float(len(seams))}
        return Reading(value, clip.status(len(left), coverage), self.series, coverage, details)


RISE = 0.1
"""A transition is a change of relative luminance by a tenth of the maximum, up or down …"""
DARKER_BELOW = 0.8
"""… whose darker end lies below this."""
AREA = 0.25
"""Share of the cells that must make it at the same frame: a quarter of any 10° of the field of view."""
ALLOWED = 3
"""General flashes, pairs of opposing transitions, within any one second."""

_CODES = np.arange(256) / 255
LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""sRGB code value → linear light in 0…1."""


def relative_luminance(rgb: Rgb) -> Cells:
    """Mean relative luminance of the 8 × 8 cells in 0…1: 0.2126 R + 0.7152 G + 0.0722 B of linear light."""
    weights = np.array([[0.2126, 0.7152, 0.0722]], dtype=np.float32)
    return cell_means(cv2.transform(cv2.LUT(rgb, LINEAR), weights).reshape(rgb.shape[:2]))


class TransitionFinder:
    """Finds, cell by cell, where luminance has risen or fallen by `RISE` since it last turned."""

    def __init__(self) -> None:
        self._lowest: Float64[np.ndarray, "cells"] = np.zeros(0)
        self._highest: Float64[np.ndarray, "cells"] = np.zeros(0)
        self._direction: Float64[np.ndarray, "cells"] = np.zeros(0)

    def add(self, luminance: Float64[np.ndarray, "cells"]) -> tuple[float, float]:
        """Take the cells of the next frame; return the shares that completed a rise and a fall with it."""
        if not self._direction.size:
            self._lowest, self._highest = luminance.copy(), luminance.copy()
            self._direction = np.zeros_like(luminance)
        self._lowest = np.minimum(self._lowest, luminance)
        self._highest = np.maximum(self._highest, luminance)
        rise = (self._direction <= 0) & (luminance - self._lowest >= RISE - 1e-6)
        fall = (self._direction >= 0) & (self._highest - luminance >= RISE - 1e-6)
        counted_rise, counted_fall = rise & (self._lowest < DARKER_BELOW), fall & (luminance < DARKER_BELOW)
        self._direction = np.where(rise, 1.0, np.where(fall, -1.0, self._direction))
        self._highest = np.where(rise, luminance, self._highest)
        self._lowest = np.where(fall, luminance, self._lowest)
        return float(counted_rise.mean()), float(counted_fall.mean())


class FlashSafety(Accumulator):
    """Largest number of general flashes within any one second (WCAG 2.2, 2.3.1); more than 3 fail.

    Relative luminance of 8 × 8 cells; a flash is a rise and a fall (or the other way round) of at least a
    tenth, the darker end below 0.8, that at least a quarter of the cells make at the same frame. Cuts count
    like any change. Detail `passes`: 1 or 0. Not checked: saturated red flashes, patterns, the size of the
    picture on the viewer's screen.
    """

    view = Frame
    needs_shots = False

    def __init__(self) -> None:
        self._finder = TransitionFinder()
        self._direction = 0
        self._recent: deque[float] = deque()
        self._flashes = Series()

    def look(self, view: Frame) -> tuple[float, Cells]:
        """Return the time of the frame in seconds and the luminance of its cells."""
        return view.time, relative_luminance(view.rgb)

    def add(self, index: int, row: tuple[float, Cells]) -> None:
        """Count the transitions of the second that ends with this frame."""
        time, luminance = row
        risen, fallen = self._finder.add(luminance.ravel())
        for share, direction in ((risen, 1), (fallen, -1)):
            if share >= AREA and direction != self._direction:
                self._recent.append(time)
                self._direction = direction
        while self._recent and self._recent[0] <= time - 1 + 1e-9:
            self._recent.popleft()
        self._flashes.add(index, float(len(self._recent) // 2))

    def result(self, clip: ClipFacts) -> Reading:
        """Return the count of the worst second."""
        if not clip.complete:
            return Reading(None, "unmeasurable", note="needs every frame")
        if len(self._flashes) < 3:
            return Reading(None, "too_short", note="needs 3 frames")
        value = float(self._flashes.values.max())
        details = {"passes": float(value <= ALLOWED)}
        status = clip.status(len(self._flashes))
        return Reading(value, status, self._flashes, details=details)
