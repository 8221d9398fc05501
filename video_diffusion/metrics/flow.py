"""Optical flow between neighbouring frames, warping along it, and where it can be believed.

A flow `F` from frame A to frame B lies on A's grid and is in pixels: B(x + F(x)) ≈ A(x), with F[..., 0] to
the right and F[..., 1] downwards. Every pair of frames has two: forward on the first frame's grid, backward
on the second's.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

Rgb: TypeAlias = UInt8[np.ndarray, "h w 3"]
Levels: TypeAlias = Float32[np.ndarray, "h w 3"]
Flow: TypeAlias = Float32[np.ndarray, "h w 2"]
Mask: TypeAlias = Bool[np.ndarray, "h w"]
Plane: TypeAlias = Float32[np.ndarray, "h w"]

SMALLEST_SIDE = 16
"""Frames with a shorter side give no flow: DIS needs at least two of its 8-pixel patches."""


@runtime_checkable
class FlowMethod(Protocol):
    """Anything that gives both flows of a pair of frames."""

    name: str

    def between(self, index: int, first: Rgb, second: Rgb) -> tuple[Flow, Flow] | None:
        """Return (forward, backward) of two frames, or None where it cannot measure.

        Called from several threads at once. The second frame has the number `index + 1`, the first `index`
        or, where that one only repeats it, a lower one.
        """
        ...


class DisFlow:
    """Dense inverse search flow (Kroeger et al., ECCV 2016; OpenCV, PRESET_MEDIUM) on 8-bit luma.

    Args:
        finest_scale: 0 searches down to full resolution. OpenCV's preset stops at 1, half resolution, which
            leaves a floor of 0.1 level on a clean pan instead of 0.003.
    """

    def __init__(self, finest_scale: int = 0):
        self.name = "DIS" if finest_scale == 0 else f"DIS, finest scale {finest_scale}"
        self._finest_scale = finest_scale
        self._searches = threading.local()  # a search keeps its buffers, so each thread has its own

    def _search(self) -> Any:
        if not hasattr(self._searches, "own"):
            self._searches.own = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            self._searches.own.setFinestScale(self._finest_scale)
        return self._searches.own

    def between(self, index: int, first: Rgb, second: Rgb) -> tuple[Flow, Flow] | None:
        """Return both flows, or None below `SMALLEST_SIDE`."""
        if min(first.shape[:2]) < SMALLEST_SIDE:
            return None
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        search = self._search()
        return search.calc(grey[0], grey[1], None), search.calc(grey[1], grey[0], None)


class FarnebackFlow:
    """Polynomial expansion flow (Farnebäck 2003; OpenCV) on 8-bit luma: smoother and less exact than DIS."""

    name = "Farneback"

    def between(self, index: int, first: Rgb, second: Rgb) -> tuple[Flow, Flow] | None:
        """Return both flows, or None below `SMALLEST_SIDE`."""
        if min(first.shape[:2]) < SMALLEST_SIDE:
            return None
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        settings = (
            None,
            0.5,
            5,
            15,
            5,
            7,
            1.5,
            0,
        )  # flow, pyramid scale, levels, window, iterations, n, σ, flags
        forward = cv2.calcOpticalFlowFarneback(grey[0], grey[1], *settings)
        return forward, cv2.calcOpticalFlowFarneback(grey[1], grey[0], *settings)


class SuppliedFlow:
    """Flow that the caller knows, such as the true motion of a rendered clip: this makes every measure exact.

    Args:
        forward: float, num_frames − 1 × h × w × 2, from each frame to the next, in pixels.
        backward: the same from each next frame back, on the next frame's grid.

    Raises:
        ValueError: the two differ in shape, or are not `f h w 2`.
    """

    name = "supplied"

    def __init__(self, forward: np.ndarray, backward: np.ndarray):
        self._forward = np.asarray(forward, dtype=np.float32)
        self._backward = np.asarray(backward, dtype=np.float32)
        if (
            self._forward.ndim != 4
            or self._forward.shape[3] != 2
            or self._forward.shape != self._backward.shape
        ):
            raise ValueError(
                "flow must be two arrays (forward, backward) of shape (num_frames - 1, height, width, 2); "
                f"given {self._forward.shape} and {self._backward.shape}"
            )

    def between(self, index: int, first: Rgb, second: Rgb) -> tuple[Flow, Flow] | None:
        """Return the flows of pair `index`.

        Raises:
            ValueError: there is no such pair, or its size is not that of the frames.
        """
        if index >= len(self._forward) or self._forward.shape[1:3] != first.shape[:2]:
            raise ValueError(
                f"flow has shape {self._forward.shape} but frames {index} and {index + 1} are "
                f"{first.shape[0]} high and {first.shape[1]} wide; give one flow for each pair of frames"
            )
        return self._forward[index], self._backward[index]


def choose_flow(flow: str | FlowMethod | Sequence[np.ndarray] | None) -> FlowMethod:
    """Turn what callers of `measure` may give into a flow method; None means DIS at full resolution.

    Raises:
        ValueError: an unknown name, or something that is neither a method nor a pair of arrays.
    """
    if flow is None or flow == "dis":
        return DisFlow()
    if isinstance(flow, str):
        if flow == "farneback":
            return FarnebackFlow()
        raise ValueError(
            f"flow must be 'dis', 'farneback', a flow method or (forward, backward) arrays; given {flow!r}"
        )
    if isinstance(flow, FlowMethod):
        return flow
    if len(flow) != 2:
        raise ValueError(f"flow must be two arrays (forward, backward); given {len(flow)}")
    return SuppliedFlow(flow[0], flow[1])


@lru_cache(maxsize=4)
def pixel_grid(height: int, width: int) -> Flow:
    """Return the (x, y) position of each pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def warp(levels: Levels, flow: Flow) -> Levels:
    """Fetch `levels` at x + flow(x): Lanczos over 8×8 pixels, kept within 0…255, the edge repeated outside.

    Bilinear interpolation would blur, and blur would count as flicker (a floor of 0.7 level on a half-pixel
    pan).
    """
    fetched = cv2.remap(
        levels, pixel_grid(*flow.shape[:2]) + flow, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
    )
    return np.clip(fetched, 0, 255, out=fetched)


def flow_validity(forward: Flow, backward: Flow) -> tuple[Mask, Mask]:
    """Where a flow can be believed, on its own grid.

    Returns:
        valid: x + f lies in the picture and |f + b(x + f)|² ≤ 0.01 (|f|² + |b(x + f)|²) + 0.5 with b
            fetched bilinearly (Sundaram, Brox, Keutzer, ECCV 2010, equation 5).
        inside: x + f lies in the picture.
    """
    height, width = forward.shape[:2]
    target = pixel_grid(height, width) + forward
    returning = cv2.remap(backward, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    f_x, f_y = cv2.split(forward)
    b_x, b_y = cv2.split(returning)
    error = (f_x + b_x) ** 2 + (f_y + b_y) ** 2
    allowed = (f_x**2 + f_y**2 + b_x**2 + b_y**2) * np.float32(0.01) + np.float32(0.5)
    x, y = cv2.split(target)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside & (error <= allowed), inside
