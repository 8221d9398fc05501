"""The images of docs/metrics.md on sharpness and brightness."""

import cv2
import numpy as np
from matplotlib.figure import Figure
from metric_charts import PAN, panels, picture
from synthetic_clips import DISTORTIONS

from video_diffusion.metrics import measure


def sharpness() -> Figure:
    """One noisy clip at three sharpnesses: less flicker, and why."""
    noisy = DISTORTIONS["frame noise"].apply(PAN, 8)
    figure, axes = panels(3, height=2.1)
    for axis, sigma in zip(axes, (0.0, 1.0, 2.0), strict=True):
        soft = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame for frame in noisy])
        values = measure(soft, 8).values
        told = f"flicker {values['flicker'].value:.2f}, sharpness {values['sharpness'].value:.1f}"
        picture(axis, soft[8], f"blurred by {sigma:g} px\n{told}" if sigma else f"as it is\n{told}")
    return figure


def steady_sharpness() -> Figure:
    """One clip as it is, with noise drawn anew in each frame, and blurred: what stays tells them apart."""
    noisy = DISTORTIONS["frame noise"].apply(PAN, 24)
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in PAN])
    figure, axes = panels(3, height=2.1)
    clips = (("as it is", PAN), ("with restless noise", noisy), ("blurred by 1 px", soft))
    for axis, (name, frames) in zip(axes, clips, strict=True):
        values = measure(frames, 8).values
        told = f"{values['sharpness'].value:.1f}, steady {values['steady_sharpness'].value:.1f}"
        picture(axis, frames[8], f"{name}\nsharpness {told}")
    return figure


def mean_luma() -> Figure:
    """One flickering clip at three exposures: less flicker, and why."""
    flickering = DISTORTIONS["brightness flicker"].apply(PAN, 8)
    figure, axes = panels(3, height=2.1)
    for axis, exposure in zip(axes, (1.0, 0.5, 0.25), strict=True):
        frames = np.rint(flickering * exposure).astype(np.uint8)
        values = measure(frames, 8).values
        told = f"flicker {values['flicker'].value:.2f}, mean luma {values['mean_luma'].value:.0f}"
        picture(axis, frames[8], f"exposure × {exposure:g}\n{told}", vmin=0, vmax=255)
    return figure
