"""Windows and weights: every length, overlap, stride, schedule and step."""

from itertools import pairwise, product
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_diffusion.sampling import ContextWindows
from video_diffusion.sampling.windows import van_der_corput
from video_diffusion.settings import ContextFuse, ContextSchedule


@st.composite
def divisions(draw: st.DrawFn) -> ContextWindows:
    length = draw(st.integers(2, 40))
    return ContextWindows(
        num_frames=draw(st.integers(1, 200)),
        length=length,
        overlap=draw(st.integers(0, length - 1)),
        stride=draw(st.integers(1, 4)),
        schedule=draw(st.sampled_from(get_args(ContextSchedule))),
        fuse=draw(st.sampled_from(get_args(ContextFuse))),
    )


@settings(max_examples=400, deadline=None)
@given(divisions(), st.integers(0, 50))
def test_every_frame_is_covered_once_per_window_with_positive_weight(
    division: ContextWindows, step: int
) -> None:
    windows = division.at(step)
    assert {frame for window in windows for frame in window} == set(range(division.num_frames))
    for window in windows:
        assert len(set(window)) == len(window) <= division.length
        assert len(division.weights(window)) == len(window)
        assert min(division.weights(window)) > 0
    neighbours = {frame for w in windows if _dilation(w, division.num_frames) == 1 for frame in w}
    assert neighbours == set(range(division.num_frames))


def _dilation(window: tuple[int, ...], num_frames: int) -> int:
    return (window[1] - window[0]) % num_frames if len(window) > 1 else 1


@settings(max_examples=200, deadline=None)
@given(divisions(), st.integers(0, 50))
def test_windows_are_as_long_as_asked_and_step_evenly(division: ContextWindows, step: int) -> None:
    windows = division.at(step)
    for window in windows:
        gaps = {(b - a) % division.num_frames for a, b in pairwise(window)}
        assert len(gaps) <= 1
        if division.schedule != "batched" and division.num_frames > division.length:
            assert len(window) == division.length
    starts = division.starts(step)
    assert starts == tuple(sorted(set(starts)))
    if division.schedule != "batched" and division.num_frames > division.length:
        overlap = division.overlap - (division.schedule == "even" and division.overlap > 0)
        assert max(b - a for a, b in pairwise(starts)) <= division.length - overlap


@pytest.mark.slow
@pytest.mark.parametrize("schedule", get_args(ContextSchedule))
def test_every_clip_up_to_200_frames_is_covered(schedule: ContextSchedule) -> None:
    """All of them, with windows of five lengths, every overlap, two strides, at steps that differ."""
    for num_frames, length, stride in product(range(1, 201), (2, 3, 5, 8, 16), (1, 3)):
        for overlap in range(length):
            division = ContextWindows(num_frames, length, overlap, stride, schedule)
            windows = division.at((7 * num_frames + overlap) % 50)
            frames = [frame for w in windows if _dilation(w, num_frames) == 1 for frame in w]
            assert set(frames) == set(range(num_frames)), division
            assert all(len(set(window)) == len(window) <= length for window in windows), division
            assert all(min(division.weights(window)) > 0 for window in windows), division


@given(st.integers(1, 40), st.integers(0, 50), st.sampled_from(["uniform", "static", "even", "batched"]))
def test_a_clip_that_fits_is_one_window(num_frames: int, step: int, schedule: ContextSchedule) -> None:
    assert ContextWindows(num_frames, 40, 10, 3, schedule).at(step) == (tuple(range(num_frames)),)


def test_a_loop_that_fits_is_one_window_that_turns() -> None:
    division = ContextWindows(8, 16, 4, schedule="uniform_looped")
    assert [division.at(step)[0][0] for step in range(4)] == [0, 4, 2, 6]
    assert division.at(1) == ((4, 5, 6, 7, 0, 1, 2, 3),)


def test_static_windows_are_the_published_ones() -> None:
    """Starts 0, Δ, 2Δ, …, the last shifted back to end with the clip."""
    division = ContextWindows(42, 16, 4, schedule="static")
    assert division.starts(0) == division.starts(9) == (0, 12, 24, 26)
    assert division.at(0)[-1] == tuple(range(26, 42))


def test_even_windows_are_as_few_as_can_be_and_all_alike() -> None:
    """128 frames in 10 windows of 16 where "static" takes 11: 1.25 of the work of one pass, not 1.375."""
    division = ContextWindows(128, 16, 4, schedule="even")
    starts = division.starts(0)
    assert starts == division.starts(7)
    assert (len(starts), starts[0], starts[-1]) == (10, 0, 112)
    assert {16 - (b - a) for a, b in pairwise(starts)} == {3, 4}
    assert len(ContextWindows(128, 16, 4, schedule="static").starts(0)) == 11
    assert ContextWindows(64, 16, 4, schedule="even").starts(0) == (0, 12, 24, 36, 48)
    assert ContextWindows(20, 16, 0, schedule="even").starts(0) == (0, 4)


def test_uniform_windows_move_with_the_step_and_looped_ones_wrap() -> None:
    assert [ContextWindows(64, 16, 4).starts(s) for s in (0, 1)] == [
        (0, 12, 24, 36, 48),
        (0, 6, 18, 30, 42, 48),
    ]
    looped = ContextWindows(64, 16, 4, schedule="uniform_looped")
    assert looped.starts(0) == (0, 12, 24, 36, 48, 60)
    assert looped.at(0)[-1] == (*range(60, 64), *range(12))


def test_dilated_windows_are_added_as_far_as_they_fit() -> None:
    windows = ContextWindows(64, 16, 4, stride=4, schedule="static").at(0)
    dilated = [window for window in windows if window[1] - window[0] > 1]
    assert dilated[0][:3] == (0, 2, 4)
    assert {window[1] - window[0] for window in windows} == {1, 2, 4}  # 8 · 15 frames do not fit into 64


def test_batches_divide_evenly_and_do_not_overlap() -> None:
    division = ContextWindows(65, 16, 4, schedule="batched")
    assert [len(window) for window in division.at(0)] == [13] * 5
    assert division.starts(0) == (0, 13, 26, 39, 52)


def test_weights_are_the_published_ones() -> None:
    def weights(fuse: ContextFuse, first: int, size: int = 6) -> tuple[float, ...]:
        window = tuple(range(first, first + size))
        return ContextWindows(20, 6, 2, schedule="static", fuse=fuse).weights(window)

    assert weights("flat", 4) == (1,) * 6
    assert weights("pyramid", 4) == (1, 2, 3, 3, 2, 1)
    assert weights("pyramid", 4, 5) == (1, 2, 3, 2, 1)
    assert weights("linear", 4) == (1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3)
    assert weights("linear", 0) == (1, 1, 1, 1, 2 / 3, 1 / 3)
    assert weights("linear", 14) == (1 / 3, 2 / 3, 1, 1, 1, 1)


def test_bits_are_reversed_behind_the_point() -> None:
    assert [van_der_corput(step) for step in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]


@pytest.mark.parametrize("overlap", [-1, 16])
def test_an_overlap_outside_the_window_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"context_overlap must lie in 0…15, .* but is {overlap}"):
        ContextWindows(64, 16, overlap)
