import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.jobs.finishing import finish_behind

LONG = 30  # seconds that nothing here takes unless it hangs


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=5))
def test_everything_comes_out_in_order(batches):
    calls = ([partial(int, number) for number in batch] for batch in batches)
    assert list(finish_behind(calls)) == [number for batch in batches for number in batch]


def test_a_batch_is_finished_while_the_next_is_made():
    making_second, finishing_first = threading.Event(), threading.Event()

    def finish(name):
        if name == "first":
            finishing_first.set()
            assert making_second.wait(LONG), "the next batch waits for this one"
        return name

    def batches():
        yield [partial(finish, "first")]
        making_second.set()
        assert finishing_first.wait(LONG), "nothing is finished yet"
        yield [partial(finish, "second")]

    assert list(finish_behind(batches())) == ["first", "second"]


def test_no_third_batch_is_made_before_the_first_is_finished():
    finished: list[int] = []

    def batches():
        for number in range(5):
            assert len(finished) >= number - 1
            yield [partial(finished.append, number)]

    list(finish_behind(batches()))
    assert finished == [0, 1, 2, 3, 4]


def test_what_a_call_raises_comes_out_in_its_place():
    def full():
        raise OSError(28, "No space left on device")

    outcomes = finish_behind([[partial(int, 1)], [partial(int, 2), full, partial(int, 3)], [partial(int, 4)]])
    assert [next(outcomes), next(outcomes)] == [1, 2]
    with pytest.raises(OSError, match="No space left"):
        next(outcomes)
    assert list(outcomes) == []


def test_what_making_raises_does_not_lose_what_is_being_finished():
    begun, done = threading.Event(), list[int]()

    def finish():
        begun.set()
        done.append(1)

    def batches():
        yield [finish]
        assert begun.wait(LONG)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(finish_behind(batches()))
    assert done == [1]


def test_closing_early_drops_what_has_not_begun_and_leaves_no_thread():
    release, done = threading.Event(), list[int]()

    def finish(number):
        assert release.wait(LONG)
        done.append(number)
        return number

    def batches():
        yield [partial(int, 0)]
        yield [partial(finish, 1), partial(finish, 2)]
        yield [partial(finish, 3)]

    outcomes = finish_behind(batches())
    assert next(outcomes) == 0
    threading.Timer(0.05, release.set).start()
    outcomes.close()
    assert done in ([], [1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("finishing")]
