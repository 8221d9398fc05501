"""Finishes one batch of clips while the next one is made."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Finished = TypeVar("Finished")


def finish_behind(
    batches: Iterable[Sequence[Callable[[], Finished]]],
) -> Generator[Finished, None, None]:
    """Calls what is left to do of each batch, in order, in a thread of its own, one batch behind.

    Measuring and encoding need no model, and for large frames on a GPU they take as long as denoising. One
    batch is finished while the next is made; the one after that waits. What has not begun when this ends
    early is dropped.

    Args:
        batches: the calls of each batch; asked for the next while the last one's are made.

    Raises:
        Exception: what a call raises, in its place.
    """
    thread = ThreadPoolExecutor(1, "finishing")
    behind: list[Future[Finished]] = []
    try:
        for batch in batches:
            ahead = [thread.submit(call) for call in batch]
            yield from (each.result() for each in behind)
            behind = ahead
        yield from (each.result() for each in behind)
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
