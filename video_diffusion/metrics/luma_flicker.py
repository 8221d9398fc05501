"""A3, luma flicker: brightness that goes up and down, of the whole picture and of its parts."""

import numpy as np

from video_diffusion.metrics.accumulator import Accumulator, ClipFacts
from video_diffusion.metrics.luma import Cells, cell_means
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.series import Series
from video_diffusion.metrics.views import Triple


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
