"""Luma of a frame, and the 8 × 8 cells that local measures use."""

from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, Float64

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in luma Y, on gamma-encoded values (BT.601)."""

CELLS = 8
"""Local measures cut the picture into 8 × 8 cells, fewer where a side has fewer pixels."""

Plane: TypeAlias = Float32[np.ndarray, "h w"]
Cells: TypeAlias = Float64[np.ndarray, "rows columns"]


def luma(levels: Float32[np.ndarray, "h w 3"]) -> Plane:
    """Y = 0.299 R + 0.587 G + 0.114 B of levels (or of differences of levels), not rounded."""
    return cv2.transform(levels, np.array([LUMA], dtype=np.float32)).reshape(levels.shape[:2])


def cell_means(plane: Plane) -> Cells:
    """Mean of each of the 8 × 8 cells, all of one area: a pixel on a border counts in both by its share."""
    height, width = plane.shape
    rows, columns = min(CELLS, height), min(CELLS, width)
    means = cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA)
    return means.astype(np.float64).reshape(rows, columns)
