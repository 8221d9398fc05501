import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.jobs.runner import Batch, finish

LONG = 30  # seconds that nothing here takes unless it hangs


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=5))
def test_everything_comes_out_in_order(batches):
    calls = (Batch([partial(int, number) for number in batch], len(batch) % 3 > 0) for batch in batches)
    assert list(finish(calls)) == [number for batch in batches for number in batch]


def test_a_batch_is_finished_while_the_next_is_made():
    making_second, finishing_first = threading.Event(), threading.Event()

    def call(name):
        if name == "first":
            finishing_first.set()
            assert making_second.wait(LONG), "the next batch waits for this one"
        return name

    def batches():
        yield Batch([partial(call, "first")], behind=True)
        making_second.set()
        assert finishing_first.wait(LONG), "nothing is finished yet"
        yield Batch([partial(call, "second")], behind=True)

    assert list(finish(batches())) == ["first", "second"]


def test_no_third_batch_is_made_before_the_first_is_finished():
    finished: list[int] = []

    def batches():
        for number in range(5):
            assert len(finished) >= number - 1
            yield Batch([partial(finished.append, number)], behind=True)

    list(finish(batches()))
    assert finished == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("behind", [False, True])
def test_what_a_call_raises_comes_out_in_its_place(behind):
    one = partial(int, 1)

    def full():
        raise OSError(28, "No space left on device")

    outcomes = finish(
        Batch(calls, behind) for calls in ([one], [partial(int, 2), full, partial(int, 3)], [one])
    )
    assert [next(outcomes), next(outcomes)] == [1, 2]
    with pytest.raises(OSError, match="No space left"):
        next(outcomes)
    assert list(outcomes) == []


def test_what_making_raises_does_not_lose_what_is_being_finished():
    begun, done = threading.Event(), list[int]()

    def call():
        begun.set()
        done.append(1)

    def batches():
        yield Batch([call], behind=True)
        assert begun.wait(LONG)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(finish(batches()))
    assert done == [1]


def test_a_batch_is_finished_at_once_unless_it_may_stay_behind():
    finished: list[int] = []

    def batches():
        for number in range(3):
            assert len(finished) == number
            yield Batch([partial(finished.append, number)])

    list(finish(batches()))
    assert finished == [0, 1, 2]


def test_closing_early_drops_what_has_not_begun_and_leaves_no_thread():
    release, done = threading.Event(), list[int]()

    def call(number):
        assert release.wait(LONG)
        done.append(number)
        return number

    def batches():
        yield Batch([partial(int, 0)], behind=True)
        yield Batch([partial(call, 1), partial(call, 2)], behind=True)
        yield Batch([partial(call, 3)], behind=True)

    outcomes = finish(batches())
    assert next(outcomes) == 0
    threading.Timer(0.05, release.set).start()
    outcomes.close()
    assert done in ([], [1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("finishing")]
