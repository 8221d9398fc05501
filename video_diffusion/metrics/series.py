"""Numbers by frame, 8 bytes each, so that hours of video stay small."""

from array import array
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64


class Series:
    """Numbers at rising frame numbers. Stretches of consecutive frames store only where they start."""

    def __init__(self) -> None:
        self._values = array("d")
        self._stretches: list[tuple[int, int]] = []  # first frame, place of its number

    def __len__(self) -> int:
        return len(self._values)

    def add(self, index: int, value: float) -> None:
        """Put `value` at frame `index`, which lies after all others."""
        if not self._stretches or index != self._after_last():
            self._stretches.append((index, len(self._values)))
        self._values.append(value)

    def _after_last(self) -> int:
        first, place = self._stretches[-1]
        return first + len(self._values) - place

    @property
    def values(self) -> Float64[np.ndarray, "entries"]:
        """The numbers in their order."""
        return np.array(self._values, dtype=np.float64)

    def mean(self) -> float:
        """Mean of the numbers, NaN when there are none."""
        return float(self.values.mean()) if self._values else float("nan")

    def replaced(self, change: Callable[[Float64[np.ndarray, "entries"]], Sequence[float]]) -> "Series":
        """Return a series of other numbers at the same frames."""
        other = Series()
        other._stretches, other._values = list(self._stretches), array("d", change(self.values))
        return other

    def by_frame(self) -> dict[int, float]:
        """Frame number → number."""
        numbers: dict[int, float] = {}
        end = len(self._values)
        for first, place in reversed(self._stretches):
            numbers.update((first + step, self._values[place + step]) for step in range(end - place))
            end = place
        return dict(sorted(numbers.items())) if len(self._stretches) > 1 else numbers
