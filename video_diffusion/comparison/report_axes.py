"""What the charts of the page share: ticks, and the band that other seeds alone would give."""

from dataclasses import dataclass

from video_diffusion.comparison.summary import Span
from video_diffusion.web import Scale


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


def round_ticks(scale: Scale) -> tuple[Tick, ...]:
    """The ticks of a scale with their texts."""
    return tuple(Tick(scale(value), f"{value:g}".replace("-", "−")) for value in scale.ticks())


def floor_band(scale: Scale, floor: Span | None, around: float) -> tuple[float, float] | None:
    """Both ends of the band around a value, in pixels; None without a whole interval."""
    if floor is None or floor.low is None or floor.high is None:
        return None
    return scale(around + floor.low), scale(around + floor.high)
