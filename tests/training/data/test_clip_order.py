"""Batch k depends on the seed and k alone, drops nothing, and holds clips of one size."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_clips import entry_of

from video_diffusion.training.data import ClipDataset, ClipOrder, Draw


def dataset(num_wide: int, num_tall: int = 0, num_stills: int = 0) -> ClipDataset:
    """A manifest of files that nobody reads: the order needs none."""
    rows = [entry_of(Path(f"wide{index}.mp4")) for index in range(num_wide)]
    rows += [entry_of(Path(f"tall{index}.mp4"), width=32, height=48) for index in range(num_tall)]
    rows += [entry_of(Path(f"still{index}.png"), 1, None) for index in range(num_stills)]
    return ClipDataset(rows, "nowhere", 4, Fraction(8), None)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 7), st.integers(0, 2**31))
def test_every_epoch_holds_every_clip_once(num_clips: int, batch_size: int, seed: int) -> None:
    order = ClipOrder(dataset(num_clips), batch_size, seed)
    draws = [draw for number in range(3 * num_clips) for draw in order.batch(number)]
    assert all(len(order.batch(number)) == batch_size for number in range(3))
    laps = 3 * batch_size
    assert Counter(draws) == Counter(Draw(epoch, item) for epoch in range(laps) for item in range(num_clips))
    for lap in range(laps):
        own = draws[lap * num_clips : (lap + 1) * num_clips]
        assert {draw.item for draw in own} == set(range(num_clips))


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(40)))
def test_batches_can_be_asked_for_in_any_order(numbers: list[int]) -> None:
    one, other = (ClipOrder(dataset(9, 4, 2), 3, 5, 0.25) for _ in range(2))
    inorder = [one.batch(number) for number in range(40)]
    assert {number: other.batch(number) for number in numbers} == dict(enumerate(inorder))


def test_seeds_and_epochs_shuffle_differently() -> None:
    data = dataset(50)
    first = [draw.item for draw in ClipOrder(data, 50, 0).batch(0)]
    assert first != [draw.item for draw in ClipOrder(data, 50, 1).batch(0)]
    assert first != [draw.item for draw in ClipOrder(data, 50, 0).batch(1)]
    assert first != sorted(first)


def test_a_batch_has_one_size_and_sizes_take_turns_by_their_share() -> None:
    data = dataset(12, 4)
    order = ClipOrder(data, 3, 7)
    turns = []
    for number in range(32):
        sizes = {data.plan.clips[draw.item].size for draw in order.batch(number)}
        assert len(sizes) == 1
        turns.append(sizes.pop() == (32, 48))
    assert sum(turns) == 8
    for start in range(len(turns) - 8):  # evenly spread: a quarter of any stretch, within one
        assert 1 <= sum(turns[start : start + 8]) <= 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0])
def test_the_share_of_pictures_is_exact_at_every_moment(share: float) -> None:
    order = ClipOrder(dataset(5, 0, 3), 2, 0, share)
    pictures = 0
    for number in range(60):
        kinds = {draw.picture for draw in order.batch(number)}
        assert len(kinds) == 1
        pictures += kinds.pop()
        assert abs(pictures - share * (number + 1)) < 1 + 1e-6
    assert pictures == round(share * 60)


def test_pictures_come_from_pictures_and_videos() -> None:
    data = dataset(5, 0, 3)
    items = {draw.item for number in range(8) for draw in ClipOrder(data, 2, 0, 1.0).batch(number)}
    assert items == set(range(8)) and len(data.plan.pictures) == 8


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"image_fraction": -0.1}, {"image_fraction": 1.1}])
def test_wrong_settings(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        ClipOrder(dataset(2), **{"batch_size": 1, "seed": 0, **options})
