"""The scale of a chart: values to pixels, with round ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear scale.

    Attributes:
        low, high: values at the ends; low < high.
        start, stop: their pixels; stop may be less than start, for an axis that points up.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, rounded to a hundredth; values beyond the ends lie at the ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)

    def ticks(self, count: int = 5) -> tuple[float, ...]:
        """About `count` round values within the scale: steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(round(index * step, 12) for index in range(first, last + 1))


def scale_over(
    values: Iterable[float | None], start: float, stop: float, *, margin: float = 0.06, zero: bool = False
) -> Scale:
    """A scale that holds all values with some room on both sides.

    Args:
        values: None, NaN and infinity are left out; without any, the scale is 0 to 1.
        start: pixel of its low end.
        stop: pixel of its high end.
        margin: room on each side as a share of the range.
        zero: whether 0 must be on it.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    finite += [0.0] if zero or not finite else []
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(high) / 10 or 1.0
        return Scale(low - room, high + room, start, stop)
    room = margin * (high - low)
    return Scale(low - room, high + room, start, stop)
