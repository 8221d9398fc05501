"""Sets of clips: whether clips move like the clips of a reference set.

After FVMD (arXiv 2407.16124): histograms of velocity and acceleration, here of the points that `morph`
follows, and without weights. For fine-tuning: does it move like my data?
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from video_diffusion.metrics.points import PointMotion
from video_diffusion.metrics.report import Accumulator, ClipFacts, ConsistencyReport, Reading
from video_diffusion.metrics.views import Triple

DIRECTIONS = 8
BANDS = (0.25, 1.0, 3.0, 6.0, 12.0)
"""Lower ends of the bands of speed in px at 256; slower is no motion."""
NUM_FEATURES = 2 * DIRECTIONS * len(BANDS)
HALF_SAMPLES = 200
PERMUTATIONS = 999

Features = Float64[np.ndarray, "_ features"]


def motion_histogram(points: PointMotion) -> Float64[np.ndarray, "features"]:
    """Share of believed points in each direction and band of speed, of velocity and of its change."""
    after, before = points.to_after[points.believed], points.to_before[points.believed]
    if not len(after):
        return np.zeros(NUM_FEATURES)
    shares = []
    for vectors in (after, after + before):  # u₀ = −to_before, so the change of velocity is the sum
        speed = np.hypot(vectors[:, 0], vectors[:, 1]) * points.scale
        angle = np.arctan2(vectors[:, 1], vectors[:, 0]) / (2 * np.pi / DIRECTIONS)
        band = np.searchsorted(BANDS, speed, side="right") - 1
        place = (np.round(angle).astype(int) % DIRECTIONS) * len(BANDS) + band
        shares.append(np.bincount(place[band >= 0], minlength=DIRECTIONS * len(BANDS)) / len(vectors))
    return np.concatenate(shares)


class MotionFeatures(Accumulator):
    """Square root of the mean histogram over time: 80 numbers of how a clip moves, for `set_distance`.

    As a metric its value is the share of points that move at all; the numbers are the details.
    """

    view = Triple

    def __init__(self) -> None:
        self._total = np.zeros(NUM_FEATURES)
        self._count = 0

    def look(self, view: Triple) -> Float64[np.ndarray, "features"]:
        """Return the histogram of one triple."""
        return motion_histogram(view.points)

    def add(self, index: int, row: Float64[np.ndarray, "features"]) -> None:
        """Add it up."""
        self._total += row
        self._count += 1

    def result(self, clip: ClipFacts) -> Reading:
        """Return the numbers."""
        if not self._count:
            return Reading(None, "too_short", note="needs 3 frames of one shot")
        numbers = np.sqrt(self._total / self._count)
        details = {f"{place:02}": float(number) for place, number in enumerate(numbers)}
        return Reading(float((numbers[: NUM_FEATURES // 2] ** 2).sum()), "ok", details=details)


def features_of(report: ConsistencyReport) -> Float64[np.ndarray, "features"] | None:
    """Return the numbers of a clip that was measured with `MOTION_FEATURES`, None if it was too short."""
    details = report.values["motion_features"].details
    return np.array(list(details.values())) if details else None


@dataclass(frozen=True)
class SetDistance:
    """How far two sets of clips are from each other.

    Attributes:
        distance: unbiased energy distance, about 0 (and then often below it) when both move alike.
        low, high: 95 % interval from half-samples of both sets.
        p: how likely sets at random would be as far apart.
        paired: mean distance of clips of the same prompt, None where the sets are not paired. A balanced
            set hides wrong directions: all of them reversed is the same set.
        num_clips: of the first and of the second set.
    """

    distance: float
    low: float
    high: float
    p: float
    paired: float | None
    num_clips: tuple[int, int]


def _distances(first: Features, second: Features) -> Float64[np.ndarray, "_ _"]:
    return np.linalg.norm(first[:, np.newaxis] - second[np.newaxis], axis=-1)


def _energy(between: np.ndarray, is_first: np.ndarray) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'| from all distances, each mean over pairs of different clips."""
    first, second = np.flatnonzero(is_first), np.flatnonzero(~is_first)
    n, m = len(first), len(second)
    across = between[np.ix_(first, second)].mean()
    within = [between[np.ix_(side, side)].sum() / (k * (k - 1)) for side, k in ((first, n), (second, m))]
    return float(2 * across - sum(within))


def set_distance(clips: Features, reference: Features, paired: bool = False, seed: int = 0) -> SetDistance:
    """Compare how two sets of clips move.

    Args:
        clips: `features_of` each clip.
        reference: of the clips to move like.
        paired: whether the clips of both stand in the same order of prompts.
        seed: of half-samples and permutations.

    Raises:
        ValueError: fewer than 4 clips in a set, or sets that cannot be paired.
    """
    n, m = len(clips), len(reference)
    if min(n, m) < 4:
        raise ValueError(f"a set needs at least 4 clips (given {n} and {m}); measure more of them")
    if paired and n != m:
        raise ValueError(f"paired sets have one clip for each prompt in both (given {n} and {m})")
    between = _distances(np.concatenate([clips, reference]), np.concatenate([clips, reference]))
    is_first = np.arange(n + m) < n
    distance = _energy(between, is_first)
    generator = np.random.default_rng(seed)
    halves = []
    for _ in range(HALF_SAMPLES):
        sides = (generator.choice(count, count // 2, replace=False) for count in (n, m))
        kept = np.concatenate([side + offset for side, offset in zip(sides, (0, n), strict=True)])
        halves.append(_energy(between[np.ix_(kept, kept)], is_first[kept]))
    # half of the clips vary √2 times as much as all of them, about the same mean
    spread = (np.percentile(halves, [2.5, 97.5]) - np.mean(halves)) / np.sqrt(2)
    shuffled = (_energy(between, generator.permutation(is_first)) for _ in range(PERMUTATIONS))
    larger = sum(each >= distance - 1e-12 for each in shuffled)
    pairs = float(np.linalg.norm(clips - reference, axis=1).mean()) if paired else None
    low, high = distance + spread
    return SetDistance(distance, float(low), float(high), (1 + larger) / (PERMUTATIONS + 1), pairs, (n, m))
