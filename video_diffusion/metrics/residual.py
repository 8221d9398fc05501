"""What motion does not explain at the middle one of three frames: the second difference along the flow."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from video_diffusion.metrics.luma import luma
from video_diffusion.metrics.optical_flow import Levels, Mask


@dataclass(frozen=True, eq=False)
class Residual:
    """Unexplained change at one frame, in levels.

    Attributes:
        magnitude: per pixel, mean over channels; 0 where a pixel is left out.
        signed_luma: per pixel, positive where the frame is darker than its neighbours; 0 where no flow is
            valid.
        level: mean of `magnitude` over the pixels that count; NaN when none does.
        unexplained: share of the pixels that count whose flow is valid in neither direction.
    """

    magnitude: Float32[np.ndarray, "h w"]
    signed_luma: Float32[np.ndarray, "h w"]
    level: float
    unexplained: float


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
    if unexplained.any():
        magnitude[unexplained] = _unexplained_change(before, centre, after, unexplained)

    count = int(np.count_nonzero(counted))
    total = sum(cv2.sumElems(magnitude)[:3])
    shape = centre.shape[:2]
    return Residual(
        magnitude=cv2.transform(magnitude, np.full((1, 3), 1 / 3, dtype=np.float32)).reshape(shape),
        signed_luma=luma(signed),
        level=total / (3 * count) if count else float("nan"),
        unexplained=np.count_nonzero(unexplained) / count if count else float("nan"),
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
