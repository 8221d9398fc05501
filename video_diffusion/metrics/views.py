"""What a metric may look at: one, two or three neighbouring frames; what is costly is computed once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, overload

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from video_diffusion.metrics.flow import Flow, FlowMethod, Levels, Mask, Plane, Rgb, flow_validity, warp
from video_diffusion.metrics.points import PointMotion, follow_points

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in luma Y, on gamma-encoded values (BT.601)."""

CELLS = 8
"""Local measures cut the picture into 8 × 8 cells, fewer where a side has fewer pixels."""

DITHER = 1.5
"""Standard deviation in pixels of what evens out ordered and error-diffusion dithering."""

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


@dataclass(frozen=True, eq=False)
class Residual:
    """Unexplained change at one frame, in levels.

    Attributes:
        magnitude: per pixel, mean over channels; 0 where a pixel is left out.
        signed_luma: per pixel, positive where the frame is darker than its neighbours; 0 where no flow is
            valid.
        level: mean of `magnitude` over the pixels that count; NaN when none does.
        unexplained: share of the pixels that count whose flow is valid in neither direction.
        smooth_level: as `level`, of the explained change averaged over its surroundings (Gaussian, `DITHER`
            pixels), in which the pattern of a dithered palette cancels.
    """

    magnitude: Float32[np.ndarray, "h w"]
    signed_luma: Float32[np.ndarray, "h w"]
    level: float
    unexplained: float
    smooth_level: float = float("nan")


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A neighbour of the centre frame: as it is, fetched along the flow, and where that can be believed."""

    raw: Levels
    warped: Levels
    valid: Mask
    inside: Mask


def second_difference_residual(before: Neighbour, centre: Levels, after: Neighbour) -> Residual:
    """Compare the centre with both neighbours fetched along the flow.

    Per pixel and channel, with w⁻ and w⁺ the fetched neighbours: both valid |w⁻ − 2I + w⁺| / 4; one valid
    |w − I| / 2 of that side; neither valid but at least one inside the picture: unexplained change, max(min
    |w − I| over the sides inside, min(|I₋ − I|, |I₊ − I|)) / 2. A pixel whose flow leaves the picture on
    both sides is left out. The quarter makes ±a levels on alternate frames give a.
    """
    weight_before = np.where(
        before.valid, np.where(after.valid, np.float32(0.25), np.float32(0.5)), np.float32(0)
    )
    weight_after = np.where(
        after.valid, np.where(before.valid, np.float32(0.25), np.float32(0.5)), np.float32(0)
    )
    signed = cv2.multiply(before.warped - centre, cv2.merge([weight_before] * 3))
    signed += cv2.multiply(after.warped - centre, cv2.merge([weight_after] * 3))
    magnitude = np.abs(signed)

    neither = ~(before.valid | after.valid)
    counted = ~neither | before.inside | after.inside
    unexplained = neither & counted
    smooth = np.abs(cv2.GaussianBlur(signed, (0, 0), DITHER, borderType=cv2.BORDER_REFLECT_101))
    smooth[~counted] = 0
    if unexplained.any():
        magnitude[unexplained] = _unexplained_change(before, centre, after, unexplained)
        smooth[unexplained] = magnitude[unexplained]

    count = int(np.count_nonzero(counted))
    total = sum(cv2.sumElems(magnitude)[:3])
    shape = centre.shape[:2]
    return Residual(
        magnitude=cv2.transform(magnitude, np.full((1, 3), 1 / 3, dtype=np.float32)).reshape(shape),
        signed_luma=luma(signed),
        level=total / (3 * count) if count else float("nan"),
        unexplained=np.count_nonzero(unexplained) / count if count else float("nan"),
        smooth_level=sum(cv2.sumElems(smooth)[:3]) / (3 * count) if count else float("nan"),
    )


def _unexplained_change(
    before: Neighbour, centre: Levels, after: Neighbour, where: Mask
) -> Float32[np.ndarray, "pixels 3"]:
    """Half the change that even the kinder neighbour shows, fetched or as it is, at the pixels `where`."""
    here = centre[where]
    fetched = [
        np.where(side.inside[where, np.newaxis], np.abs(side.warped[where] - here), np.float32(np.inf))
        for side in (before, after)
    ]
    still = [np.abs(side.raw[where] - here) for side in (before, after)]
    return np.maximum(np.minimum(*fetched), np.minimum(*still)) / 2


Owner = TypeVar("Owner")
Value = TypeVar("Value")


class computed_once(Generic[Owner, Value]):  # noqa: N801  # used like `property`
    """A property that is computed when first asked for and then kept, without a lock.

    `functools.cached_property` of Python 3.11 holds one lock for all instances, so that no two threads could
    compute the flow of two pairs.
    """

    def __init__(self, compute: Callable[[Owner], Value]):
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "computed_once[Owner, Value]": ...
    @overload
    def __get__(self, instance: Owner, owner: type) -> Value: ...
    def __get__(self, instance: Owner | None, owner: type) -> "Value | computed_once[Owner, Value]":
        if instance is None:
            return self
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value


class Frame:
    """One frame: `rgb` is uint8 `h w c`, `time` in seconds, `index` its number in the clip."""

    def __init__(self, index: int, time: float, rgb: Rgb):
        self.index = index
        self.time = time
        self.rgb = rgb
        self.arrival: Pair | None = None
        """The pair that ends with this frame, as long as it is looked at."""

    @computed_once
    def levels(self) -> Levels:
        """RGB as float32 in 0…255."""
        return self.rgb.astype(np.float32)

    @computed_once
    def luma(self) -> Plane:
        """Y = 0.299 R + 0.587 G + 0.114 B in 0…255, not rounded."""
        return luma(self.levels)

    @computed_once
    def mean_luma(self) -> float:
        """Mean of Y in levels, exact in double precision."""
        return float(np.dot(LUMA, cv2.mean(self.rgb)[:3]))


def mean_absolute_difference(first: Rgb, second: Rgb) -> float:
    """Mean over pixels and channels of |second − first| in levels, exact."""
    return float(sum(cv2.sumElems(cv2.absdiff(first, second)))) / first.size


class Pair:
    """Two neighbouring frames and the flow between: forward on the first grid, backward on the second."""

    def __init__(self, first: Frame, second: Frame, method: FlowMethod, change: float | None = None):
        self.first = first
        self.second = second
        self._method = method
        self._change = change

    @property
    def seconds(self) -> float:
        """From when the first frame is first shown to when the second is."""
        return self.second.time - self.first.time

    @computed_once
    def change(self) -> float:
        """Mean absolute difference of the two frames in levels, without any motion taken out."""
        known = self._change
        return mean_absolute_difference(self.first.rgb, self.second.rgb) if known is None else known

    @computed_once
    def _flows(self) -> tuple[Flow, Flow] | None:
        return self._method.between(self.second.index - 1, self.first.rgb, self.second.rgb)

    @property
    def has_flow(self) -> bool:
        """Whether the method could measure this pair."""
        return self._flows is not None

    @property
    def forward(self) -> Flow:
        """Flow to the second frame, in pixels; zero where the method could not measure."""
        return self._no_flow if self._flows is None else self._flows[0]

    @property
    def backward(self) -> Flow:
        """Flow from the second frame to the first, in pixels; zero where the method could not measure."""
        return self._no_flow if self._flows is None else self._flows[1]

    @property
    def _no_flow(self) -> Flow:
        return np.zeros((*self.first.rgb.shape[:2], 2), dtype=np.float32)

    @computed_once
    def _validity(self) -> tuple[tuple[Mask, Mask], tuple[Mask, Mask]]:
        forward, backward = (
            flow_validity(self.forward, self.backward),
            flow_validity(self.backward, self.forward),
        )
        if self._flows is None:
            nowhere = np.zeros_like(forward[0])
            return (nowhere, forward[1]), (nowhere, backward[1])
        return forward, backward

    @property
    def forward_valid(self) -> Mask:
        """Where the forward flow can be believed, on the first frame's grid."""
        return self._validity[0][0]

    @property
    def forward_inside(self) -> Mask:
        """Where the forward flow stays in the picture."""
        return self._validity[0][1]

    @property
    def backward_valid(self) -> Mask:
        """Where the backward flow can be believed, on the second frame's grid."""
        return self._validity[1][0]

    @property
    def backward_inside(self) -> Mask:
        """Where the backward flow stays in the picture."""
        return self._validity[1][1]

    @computed_once
    def coverage(self) -> float:
        """Share of pixels with believable flow, 0…1, mean of both directions."""
        return float(self.forward_valid.mean() + self.backward_valid.mean()) / 2

    @computed_once
    def second_on_first(self) -> Levels:
        """The second frame fetched along the forward flow, so that it should look like the first."""
        return warp(self.second.levels, self.forward)

    @computed_once
    def change_along_flow(self) -> float:
        """Mean absolute difference of the first frame and the second fetched onto it, where that is inside.

        In levels; the plain `change` when it stays inside nowhere.
        """
        if not self.forward_inside.any():
            return self.change
        left = cv2.absdiff(self.second_on_first, self.first.levels)
        return sum(cv2.mean(left, self.forward_inside.astype(np.uint8))[:3]) / 3

    @computed_once
    def first_on_second(self) -> Levels:
        """The first frame fetched along the backward flow, so that it should look like the second."""
        return warp(self.first.levels, self.backward)


class Triple:
    """Three neighbouring frames as two pairs; `centre` is the frame they share."""

    def __init__(self, before: Pair, after: Pair):
        self.before = before
        self.after = after
        self.centre = before.second

    @computed_once
    def change_across(self) -> float:
        """Mean absolute difference of the outer two frames in levels: near zero if the centre is a flash."""
        return mean_absolute_difference(self.before.first.rgb, self.after.second.rgb)

    @computed_once
    def points(self) -> PointMotion:
        """Points on edges of the centre frame, followed both ways."""
        before, after = self.before, self.after
        planes = (before.first.luma, self.centre.luma, after.second.luma)
        return follow_points(planes, (before.backward, before.forward), (after.forward, after.backward))

    @computed_once
    def residual(self) -> Residual:
        """What motion does not explain at the centre frame."""
        before, after = self.before, self.after
        return second_difference_residual(
            Neighbour(
                before.first.levels, before.first_on_second, before.backward_valid, before.backward_inside
            ),
            self.centre.levels,
            Neighbour(after.second.levels, after.second_on_first, after.forward_valid, after.forward_inside),
        )
