"""A4, luma spectrum: how fast the brightness flickers."""

from typing import Literal

import numpy as np
from jaxtyping import Float64

from video_diffusion.metrics.accumulator import Accumulator, ClipFacts
from video_diffusion.metrics.luma import Cells, cell_means
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Frame

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
