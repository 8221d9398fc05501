"""Structural similarity of two planes (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004)."""

import cv2
import numpy as np
from jaxtyping import Float32

from video_diffusion.metrics.luma import Plane

WINDOW = 11
SIGMA = 1.5
MARGIN = WINDOW // 2
"""Pixels nearer than this to something invalid, or to the edge, have a window that is not all there."""


def _blur(plane: Plane) -> Plane:
    return cv2.GaussianBlur(plane, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT_101)


def similarity_map(first: Plane, second: Plane) -> Float32[np.ndarray, "h w"]:
    """SSIM per pixel of two planes in 0…255: Gaussian window of 11 × 11 with σ 1.5, K₁ = 0.01, K₂ = 0.03."""
    c_1, c_2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
    mean_1, mean_2 = _blur(first), _blur(second)
    mean_product, energy = mean_1 * mean_2, mean_1 * mean_1 + mean_2 * mean_2
    covariance = _blur(first * second) - mean_product
    variances = _blur(first * first + second * second) - energy
    return (2 * mean_product + c_1) * (2 * covariance + c_2) / ((energy + c_1) * (variances + c_2))
