"""Clips of slow waves that any codec keeps well, and how well it kept them."""

import numpy as np


def smooth_clip(num_frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        [np.sin((x + 3 * t) / 17), np.cos((y + 2 * t) / 23), np.sin((x + y + t) / 31)]
        for t in range(num_frames)
    ]
    return np.rint(127 + 100 * np.moveaxis(np.array(waves), 1, -1)).astype(np.uint8)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-12, np.mean((one.astype(float) - two) ** 2))))
