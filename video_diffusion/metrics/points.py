"""Points on edges and how they move through three frames, by what flow says along their gradients.

Flow is believed along the gradient only: along an edge it slides by many pixels, the aperture problem. The
motion of a point is then the least-squares motion of its surroundings, near or far, that fits what is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int

from video_diffusion.metrics.flow import Flow, Plane

POINT_CELLS = 64
"""Points lie in a grid of so many cells along the shorter side: cells of 4 pixels at 256."""
STEEP, STEEP_IN_NOISE = 3.0, 0.9
"""Gradient of a point: levels per pixel, or times the noise over the variance of the blur."""
WINDOWS = (16.0, 5.0, 2.0, 0.8)
RIDGE = 0.03
PATCH, SAME_LOOK = 3, 0.9
"""Reach of the patches whose correlation tells that a point stands and only its light changed."""
Grid: TypeAlias = Float32[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class PointGrid:
    """The steepest pixel of each cell.

    Attributes:
        place: (x, y) in pixels.
        normal: unit gradient, 0 where a cell has no steep pixel.
        steep: where there is one.
    """

    place: Float32[np.ndarray, "rows columns 2"]
    normal: Float32[np.ndarray, "rows columns 2"]
    steep: Bool[np.ndarray, "rows columns"]


def noise_level(plane: Plane) -> float:
    """Standard deviation of white noise in levels (Immerkær, CVIU 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
    left = cv2.filter2D(plane, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
    return float(np.sqrt(np.pi / 2) / 6 * cv2.norm(left, cv2.NORM_L1) / plane.size)


def steepest_points(plane: Plane, num_cells: int = POINT_CELLS) -> PointGrid:
    """Choose the points of a frame, one to a cell, of which there are `num_cells` along the shorter side."""
    height, width = plane.shape
    cell = max(1.0, min(height, width) / num_cells)
    sigma = max(0.7, 0.8 * min(height, width) / 256)
    smooth = cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    across = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32, borderType=cv2.BORDER_REPLICATE)
    slope = np.sqrt(across * across + down * down)  # cv2.magnitude depends on where its arrays lie in memory
    # slope in 1/64 levels per pixel above, place below: one number finds the largest of a cell and its place
    key = (slope * 64).astype(np.int64) << 40 | np.arange(plane.size).reshape(plane.shape)
    rows, columns = (np.unique((np.arange(side / cell) * cell).astype(int)) for side in (height, width))
    key = np.maximum.reduceat(np.maximum.reduceat(key, rows, axis=0), columns, axis=1)
    y, x = np.divmod(key & ((1 << 40) - 1), width)
    found = slope[y, x]
    steep = found > max(STEEP, STEEP_IN_NOISE * noise_level(plane) / sigma**2)
    normal = np.stack([across[y, x], down[y, x]], axis=-1) * (steep / np.maximum(found, 1e-6))[..., None]
    return PointGrid(np.stack([x, y], axis=-1).astype(np.float32), normal.astype(np.float32), steep)


@dataclass(frozen=True, eq=False)
class NormalFlow:
    """Flow to one neighbour at the points, along their normals.

    Attributes:
        along: n · F in pixels.
        error: |n · (F + B)| of the way there and back in pixels; infinite where it leaves the image.
        believed: where the way back ends near where it began. Along an edge flow slides by many pixels, so
            only the error along the normal is asked.
    """

    along: Grid
    error: Grid
    believed: Bool[np.ndarray, "rows columns"]

    @property
    def misses(self) -> Bool[np.ndarray, "rows columns"]:
        """Where the neighbour shows the place but not the point."""
        return np.isfinite(self.error) & ~self.believed


def flow_along_normals(points: PointGrid, there: Flow, back: Flow) -> NormalFlow:
    """Read a flow and its way back at the points."""
    height, width = there.shape[:2]
    x, y = points.place[..., 0].astype(np.intp), points.place[..., 1].astype(np.intp)
    flow = there[y, x]
    target = points.place + flow
    returning = cv2.remap(back, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    along, along_back = ((points.normal * each).sum(axis=-1) for each in (flow, returning))
    inside = (target >= 0).all(axis=-1) & (target[..., 0] <= width - 1) & (target[..., 1] <= height - 1)
    error = np.where(inside, np.abs(along + along_back), np.float32(np.inf))
    allowed = 0.01 * (along**2 + along_back**2) + 0.25
    return NormalFlow(along, error, points.steep & (error**2 <= allowed))


def spread(values: Float32[np.ndarray, "rows columns *planes"], sigma: float | int) -> np.ndarray:
    """Add up in Gaussian windows of `sigma` cells; outside the grid there is nothing."""
    return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)


def motion_from_normals(
    normal: Float32[np.ndarray, "rows columns 2"], alongs: Sequence[Grid]
) -> tuple[list[Float32[np.ndarray, "rows columns 2"]], Float32[np.ndarray, "rows columns 3"]]:
    """Least squares of the normal flow in Gaussian windows, coarse to fine.

    What a window cannot see, since all its normals point one way, it takes from the wider one: the ridge is
    `RIDGE` of the trace.

    Args:
        normal: unit normals of the points that count, 0 elsewhere.
        alongs: n · u of each motion wanted.

    Returns:
        The motions, and the structure tensor (xx, xy, yy) of the narrowest window.
    """
    n_x, n_y = normal[..., 0], normal[..., 1]
    tensor = np.stack([n_x * n_x, n_x * n_y, n_y * n_y], axis=-1)
    sides = [np.stack([n_x * along, n_y * along], axis=-1) for along in alongs]
    motions = [np.zeros_like(normal) for _ in alongs]
    for sigma in (None, *WINDOWS):
        if sigma is None:
            seen = np.broadcast_to(tensor.sum(axis=(0, 1)), tensor.shape)
            wanted = [np.broadcast_to(side.sum(axis=(0, 1)), side.shape) for side in sides]
        else:
            seen, wanted = spread(tensor, sigma), [spread(side, sigma) for side in sides]
        a, b, d = seen[..., 0], seen[..., 1], seen[..., 2]
        ridge = RIDGE * (a + d) + 1e-9
        determinant = (a + ridge) * (d + ridge) - b * b
        for motion, side in zip(motions, wanted, strict=True):
            left_x = side[..., 0] - a * motion[..., 0] - b * motion[..., 1]
            left_y = side[..., 1] - b * motion[..., 0] - d * motion[..., 1]
            motion[..., 0] += ((d + ridge) * left_x - b * left_y) / determinant
            motion[..., 1] += ((a + ridge) * left_y - b * left_x) / determinant
    return motions, seen


@dataclass(frozen=True, eq=False)
class PointMotion:
    """The points of the middle one of three frames and where they were and will be.

    Attributes:
        grid: the points.
        to_before: to the frame before, in pixels; as good as its surroundings where a point is not believed.
        to_after: to the frame after.
        tensor: of normals (xx, xy, yy) in the narrowest window.
        believed: towards both neighbours.
        neither: steep, inside both neighbours, believed towards neither, and seen in neither where it stood.
        error: the smaller of the two round trips along the normal, in pixels.
        scale: pixels at 256 per pixel.
        cell: side of a cell in pixels.
    """

    grid: PointGrid
    to_before: Float32[np.ndarray, "rows columns 2"]
    to_after: Float32[np.ndarray, "rows columns 2"]
    tensor: Float32[np.ndarray, "rows columns 3"]
    believed: Bool[np.ndarray, "rows columns"]
    neither: Bool[np.ndarray, "rows columns"]
    error: Grid
    scale: float
    cell: float


def _patches(plane: Plane, place: Int[np.ndarray, "points 2"]) -> Float32[np.ndarray, "points pixels"]:
    """Surroundings of 7 × 7 pixels less their mean, of length 1 where they show anything at all."""
    side = np.arange(-PATCH, PATCH + 1)
    rows = np.clip(place[:, 1, None, None] + side[:, None], 0, plane.shape[0] - 1)
    columns = np.clip(place[:, 0, None, None] + side[None, :], 0, plane.shape[1] - 1)
    found = plane[rows, columns].reshape(len(place), len(side) ** 2)
    found = found - found.mean(axis=1, keepdims=True)
    length = np.sqrt((found * found).sum(axis=1, keepdims=True))
    return found / np.where(length > 1, length, np.float32(np.inf))


def _only_lit(
    place: Float32[np.ndarray, "points 2"],
    centre: Plane,
    neighbours: Sequence[tuple[Plane, Float32[np.ndarray, "points 2"]]],
) -> Bool[np.ndarray, "points"]:
    """Whether points look the same in a neighbour but for contrast and its sign, in place or moved along.

    Where light flickers inside a border, an edge comes and goes that flow finds nowhere: nothing moved.
    """
    here = place.astype(np.intp)
    looks, same = _patches(centre, here), np.zeros(len(place), dtype=bool)
    for plane, motion in neighbours:
        for step in (np.zeros_like(here), np.rint(motion).astype(np.intp)):
            same |= np.abs((looks * _patches(plane, here + step)).sum(axis=1)) > SAME_LOOK
    return same


def follow_points(
    planes: tuple[Plane, Plane, Plane], to_before: tuple[Flow, Flow], to_after: tuple[Flow, Flow]
) -> PointMotion:
    """Choose the points of a frame and follow them both ways.

    Args:
        planes: luma of the frame before, of the middle one and of the one after.
        to_before: flow to the frame before on the middle grid, and its way back.
        to_after: the same to the frame after.
    """
    grid = steepest_points(planes[1])
    before, after = (flow_along_normals(grid, *flows) for flows in (to_before, to_after))
    believed = before.believed & after.believed
    normal = grid.normal * believed[..., None]
    (motion_before, motion_after), tensor = motion_from_normals(normal, [before.along, after.along])
    neither = grid.steep & before.misses & after.misses
    neither[neither] = ~_only_lit(
        grid.place[neither],
        planes[1],
        [(planes[0], motion_before[neither]), (planes[2], motion_after[neither])],
    )
    shorter = min(planes[1].shape)
    return PointMotion(
        grid=grid,
        to_before=motion_before,
        to_after=motion_after,
        tensor=tensor,
        believed=believed,
        neither=neither,
        error=np.minimum(before.error, after.error),
        scale=256 / shorter,
        cell=max(1.0, shorter / POINT_CELLS),
    )
