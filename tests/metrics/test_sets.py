"""Distances of sets of clips: closed forms, no distance between draws of one world, and what must be seen."""

import numpy as np
import pytest
from synthetic_clips import clean_clip

from video_diffusion.metrics import MOTION_FEATURES, features_of, measure, set_distance
from video_diffusion.metrics.sets import NUM_FEATURES


def moving(speed, angle, start=40, frames=6):
    """A camera that pans over pebbles in a direction."""
    clip = clean_clip("pebbles", "pan", 0, 1, 160, 160).frames[0]
    steps = [(start + t * speed * np.cos(angle), start + t * speed * np.sin(angle)) for t in range(frames)]
    return np.stack([clip[round(y) : round(y) + 80, round(x) : round(x) + 80] for x, y in steps])


def features(clips):
    return np.array(
        [features_of(measure(clip, 8, metrics=[MOTION_FEATURES], one_shot=True)) for clip in clips]
    )


def test_a_pan_fills_the_cell_of_its_direction_and_speed():
    (numbers,) = features([moving(3, 0)])
    assert numbers.shape == (NUM_FEATURES,)
    velocity = numbers[:40].reshape(8, 5) ** 2
    # the camera goes right, the image left (direction 4 of 8); 3 px of 80 are 9.6 at 256, in the band from 6
    assert velocity[4, 3] > 0.9
    assert numbers[40:].max() < 0.2


def test_energy_distance_of_known_sets():
    first = np.zeros((6, 3))
    second = np.zeros((6, 3))
    second[:, 0] = 2
    found = set_distance(first, second)
    assert found.distance == pytest.approx(4)  # 2 × 2 − 0 − 0
    assert (found.low, found.high) == (pytest.approx(4), pytest.approx(4))
    assert found.p < 0.01
    assert set_distance(first, second, paired=True).paired == 2
    normal = np.random.default_rng(0).normal(size=(2, 40, 5))
    same = set_distance(*normal)
    assert abs(same.distance) < 0.15
    assert same.low < 0 < same.high
    assert same.p > 0.05


@pytest.mark.full
def test_slower_clips_are_another_set_and_reversed_ones_only_when_paired():
    kinds = [(angle, start) for start in (25, 40, 55) for angle in (0, np.pi)]
    reference = features([moving(3, angle, start) for angle, start in kinds])
    slower = set_distance(
        features([moving(1, angle, start) for angle, start in kinds]), reference, paired=True
    )
    turned = features([moving(3, angle + np.pi, start) for angle, start in kinds])
    assert slower.distance > 0.3
    assert slower.p < 0.05
    turned = set_distance(turned, reference, paired=True)
    assert turned.p > 0.2
    assert turned.paired > 1
    assert set_distance(reference.copy(), reference, paired=True).paired == 0


def test_small_sets_and_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="at least 4 clips"):
        set_distance(np.zeros((3, 5)), np.zeros((9, 5)))
    with pytest.raises(ValueError, match="one clip for each prompt"):
        set_distance(np.zeros((5, 5)), np.zeros((6, 5)), paired=True)
