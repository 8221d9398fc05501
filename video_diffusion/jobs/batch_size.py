"""How many clips are made at once: a given number, or what fits into a GPU; less once memory ran out."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

AT_MOST = 16
SHARE = 0.8  # of the free memory; the rest is for what varies from batch to batch


class BatchSizes:
    """The batch size of each kind of clip, learnt as they are made.

    On a CPU "auto" is one clip, since more gain nothing: the embedded model (2 cores, 16 frames of 64x64,
    12 steps) takes 1.81 s for each clip alone, and 1.88, 2.08 and 1.87 s for each of two, four and eight at
    once. On a GPU the first clip of a kind is made alone and its memory measured; the size is what then fits.

    Args:
        size: clips at once, or None for "auto".
    """

    def __init__(self, size: int | None = 1) -> None:
        self._size = size
        self._known: dict[Hashable, int] = {}

    @property
    def groups(self) -> bool:
        """Whether more than one clip may be made at once."""
        return self._size != 1

    def get(self, kind: Hashable) -> int:
        """How many clips of this kind to make next."""
        return self._known.get(kind, self._size or 1)

    @contextmanager
    def measured(self, kind: Hashable, device: str) -> Iterator[None]:
        """Measures what one clip, made alone inside the block, takes of a GPU's memory."""
        if self._size is not None or kind in self._known:
            yield
            return
        if not device.startswith("cuda"):
            self._known[kind] = 1
            yield
            return
        import torch  # noqa: PLC0415 - a job file is checked without importing torch

        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield
        one_clip = max(1, torch.cuda.max_memory_allocated(device) - before)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - before
        self._known[kind] = fitting(free, one_clip)

    def ran_out(self, kind: Hashable, tried: int) -> int:
        """Halves the size of a kind that did not fit, gives memory back, and returns the new size."""
        from accelerate.utils.memory import clear_device_cache  # noqa: PLC0415 - imports torch

        clear_device_cache(garbage_collection=True)
        self._known[kind] = max(1, tried // 2)
        return self._known[kind]


def fitting(free_bytes: int, bytes_of_one_clip: int) -> int:
    """How many clips fit into the free memory, with some room: 1 to 16."""
    return max(1, min(AT_MOST, int(SHARE * free_bytes) // bytes_of_one_clip))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could help: Python's, torch's for any device, and that of the CPU."""
    from accelerate.utils.memory import should_reduce_batch_size  # noqa: PLC0415 - imports torch

    return isinstance(error, MemoryError) or (
        isinstance(error, Exception) and bool(should_reduce_batch_size(error))
    )
