"""Finishes one batch of clips while the next one is made."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Finished = TypeVar("Finished")


@dataclass(frozen=True)
class Batch(Generic[Finished]):
    """What is left to do of clips that were made together.

    Attributes:
        calls: One for each clip, in order.
        behind: Whether to make the calls while the next batch is made, or at once.
    """

    calls: Sequence[Callable[[], Finished]]
    behind: bool = False


def finish(batches: Iterable[Batch[Finished]]) -> Generator[Finished, None, None]:
    """Makes the calls of each batch, in order.

    Measuring and encoding need no model, and for large frames on a GPU they take as long as denoising: there
    a second thread finishes one batch while the next is made. The one after that waits. What has not begun
    when this ends early is dropped.

    Args:
        batches: Asked for the next while the calls of the last one are made, if those are to be behind.

    Raises:
        Exception: What a call raises, in its place.
    """
    thread = ThreadPoolExecutor(1, "finishing")
    waiting: list[Future[Finished]] = []
    try:
        for batch in batches:
            begun = [thread.submit(call) for call in batch.calls] if batch.behind else []
            yield from (each.result() for each in waiting)
            waiting = begun
            if not batch.behind:
                yield from (call() for call in batch.calls)
        yield from (each.result() for each in waiting)
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
