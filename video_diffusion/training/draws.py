"""Chance in training: every draw depends on (seed, step, item) and on nothing else.

So a run that was stopped, moved or split over processes draws the same numbers, and nothing of a random state
has to be saved.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from video_diffusion.training.settings import LossSettings


class Stream(IntEnum):
    """What a number is drawn for; streams have nothing in common."""

    NOISE, TIMESTEP, CAPTION, FRAME, ORDER, OFFSET, LAYERS = range(1, 8)


@dataclass(frozen=True)
class ItemDraws:
    """What chance decides for one item of one step.

    Attributes:
        noise_seed: Of the noise of its frames.
        level: Where on the noise schedule, from 0 (clean) to just below 1.
        without_caption: Whether it is trained without its caption.
        frame: Where in the clip, from 0 to just below 1, wherever one of its frames is chosen.
    """

    noise_seed: int
    level: float
    without_caption: bool
    frame: float


def chance(seed: int, step: int, stream: Stream) -> np.random.Generator:
    """The random numbers of one step for one purpose."""
    return np.random.default_rng((seed, step, int(stream)))


def draw_step(seed: int, step: int, batch_size: int, loss: LossSettings) -> list[ItemDraws]:
    """Draw for all items of a step; one level falls into each of `batch_size` equal parts of the schedule.

    Args:
        seed: The run's.
        step: Counted from 0.
        batch_size: Items of the step over all processes; the first items of a larger batch differ from those
            of a smaller one.
        loss: Says how levels and captions are drawn.
    """
    noise_seeds = chance(seed, step, Stream.NOISE).integers(2**63, size=batch_size)
    rng = chance(seed, step, Stream.TIMESTEP)
    levels = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
    captions = chance(seed, step, Stream.CAPTION).random(batch_size) < loss.caption_dropout
    frames = chance(seed, step, Stream.FRAME).random(batch_size)
    return [
        ItemDraws(int(noise), shifted_level(float(level), loss), bool(without), float(frame))
        for noise, level, without, frame in zip(noise_seeds, levels, captions, frames, strict=True)
    ]


def shifted_level(level: float, loss: LossSettings) -> float:
    """Turn a uniform number into a place on the noise schedule, both from 0 to just below 1."""
    if loss.timestep_sampling == "logit_normal":
        level = _logistic(_normal_quantile(level))
    return min(loss.timestep_shift * level / (1 + (loss.timestep_shift - 1) * level), 1 - 1e-9)


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist  # noqa: PLC0415  needed for one setting only

    return NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
