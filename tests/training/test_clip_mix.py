"""Which clips a step sees: by weight, every clip in turn, the same wherever one enters."""

from collections import Counter

import pytest
from tiny_run import memory_clips, tiny_frames

from video_diffusion.training.clips import ClipMix, MemoryClips, Weighted, read_ahead


def names(mix: ClipMix, numbers: range) -> list[list[str]]:
    return [[item["id"] for item in mix.read(number)] for number in numbers]


def test_weights_hold_in_every_stretch_and_every_clip_has_its_turn() -> None:
    mix = ClipMix([Weighted(memory_clips(4, "a"), 7.0), Weighted(memory_clips(6, "b"), 3.0)], 5, seed=2)
    for start in (0, 400):
        seen = Counter(name for batch in names(mix, range(start, start + 40)) for name in batch)
        share = sum(count for name, count in seen.items() if name.startswith("a")) / 200
        assert share == pytest.approx(0.7, abs=0.02)
        assert len(seen) == 10
        assert max(seen[f"a{n}"] for n in range(4)) - min(seen[f"a{n}"] for n in range(4)) <= 2


def test_a_batch_is_mixed_and_does_not_depend_on_those_before_it() -> None:
    sources = [Weighted(memory_clips(4, "a")), Weighted(memory_clips(6, "b"))]
    whole = names(ClipMix(sources, 4, seed=2), range(3000))
    assert all(len({name[0] for name in batch}) == 2 for batch in whole)
    assert names(ClipMix(sources, 4, seed=2), range(2990, 3000)) == whole[2990:]
    assert names(ClipMix(sources, 4, seed=3), range(20)) != whole[:20]


def test_halves_of_a_batch_are_the_batch() -> None:
    sources = [Weighted(memory_clips(4, "a")), Weighted(memory_clips(6, "b"))]
    whole, halves = ClipMix(sources, 6, seed=1), ClipMix(sources, 3, seed=1)
    for number in range(30):
        first, second = names(halves, range(2 * number, 2 * number + 2))
        assert [first + second] == names(whole, range(number, number + 1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_nothing(num_workers: int) -> None:
    mix = ClipMix([Weighted(memory_clips(4))], 3, seed=2)
    read = [[item["id"] for item in batch] for batch in read_ahead(mix, range(5, 11, 2), num_workers)]
    assert read == [names(mix, range(number, number + 1))[0] for number in (5, 7, 9)]


def test_pictures_come_in_batches_of_their_own_as_one_frame() -> None:
    mix = ClipMix([Weighted(memory_clips(4))], 3, seed=2, image_fraction=0.25)
    lengths = [{len(item["frames"]) for item in mix.read(number)} for number in range(40)]
    assert lengths.count({1}) == 10 and lengths.count({5}) == 30


def test_clips_of_two_sizes_never_share_a_batch() -> None:
    small = MemoryClips([tiny_frames(n)[:, :, :8, :12] for n in range(3)], ["x"] * 3)
    mix = ClipMix([Weighted(memory_clips(4)), Weighted(small)], 4, seed=0)
    shapes = [{tuple(item["frames"].shape) for item in mix.read(number)} for number in range(20)]
    assert all(len(each) == 1 for each in shapes)
    assert len({next(iter(each)) for each in shapes}) == 2


def test_captions_must_be_as_many_as_clips() -> None:
    with pytest.raises(ValueError, match="one for each of 2 clips, but are 1"):
        MemoryClips([tiny_frames(0), tiny_frames(1)], ["a"])
