"""Clips side by side: the same prompt and seed under two settings, and what was lost on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from video_diffusion.comparison.statistics import Numbers
from video_diffusion.comparison.summary import ClipResult

Place: TypeAlias = tuple[str, int]
Clips: TypeAlias = Mapping[Place, ClipResult]
"""The clips of one arm by (prompt, seed)."""


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Pairs:
    """One metric of one arm against the baseline.

    Attributes:
        prompts: those with one pair or more.
        differences: for each of them, arm minus baseline, one number per seed.
        num_lost: places where one side has no number.
        num_baseline_lost: those of them where only the baseline has none.
    """

    prompts: tuple[str, ...]
    differences: tuple[Numbers, ...]
    num_lost: int
    num_baseline_lost: int

    @property
    def num_pairs(self) -> int:
        """Places where both sides have a number."""
        return sum(len(row) for row in self.differences)


def value_of(clip: ClipResult | None, metric: str) -> float | None:
    """The number of a clip in a metric; None when it has none, whatever the reason.

    A number stands whatever its status: flicker that is mostly unexplained change is still flicker, and a
    static clip's motion is still its motion.
    """
    measured = clip.measures.get(metric) if clip is not None else None
    return measured.value if measured is not None else None


def pair_up(baseline: Clips, arm: Clips, metric: str, places: Sequence[Place]) -> Pairs:
    """Differences at every place, grouped by prompt in the order of `places`."""
    rows: dict[str, list[float]] = {}
    lost = baseline_lost = 0
    for place in places:
        before, after = (value_of(side.get(place), metric) for side in (baseline, arm))
        if before is None or after is None:
            lost += 1
            baseline_lost += before is None and after is not None
            continue
        rows.setdefault(place[0], []).append(after - before)
    return Pairs(tuple(rows), tuple(np.array(row) for row in rows.values()), lost, baseline_lost)


def share_noise(clips: Sequence[ClipResult], arm: str, baseline: str) -> bool | None:
    """Whether an arm's clips start from the noise of the baseline's; None where no record tells."""
    noise = {(clip.arm, clip.key): clip.noise_sha256 for clip in clips if clip.noise_sha256}
    pairs = [(noise.get((arm, clip.key)), noise.get((baseline, clip.key))) for clip in clips]
    known = [mine == theirs for mine, theirs in pairs if mine and theirs]
    return all(known) if known else None


def scores(clips: Clips, metric: str, places: Sequence[Place]) -> list[Numbers]:
    """The numbers of one arm, one array per prompt that has any."""
    rows: dict[str, list[float]] = {}
    for place in places:
        value = value_of(clips.get(place), metric)
        if value is not None:
            rows.setdefault(place[0], []).append(value)
    return [np.array(row) for row in rows.values()]
