"""The order of training: which clips are in batch number k, from the seed and k alone."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from video_diffusion.training.data.clip_dataset import Draw
from video_diffusion.training.data.clip_plan import Size


@runtime_checkable
class Buckets(Protocol):
    """What an order asks of a data set; `ClipDataset` is one."""

    def buckets(self, pictures: bool = False) -> Mapping[Size, Sequence[int]]:
        """The items of each size, which alone can share a batch."""
        ...


class ClipOrder:
    """An endless sequence of batches, any of which can be asked for, in any order, on any machine.

    Items of one size form a stream: all of them shuffled, then all of them shuffled anew, and so on, so that
    a batch may begin in one epoch and end in the next and nothing is ever dropped. Batches of different sizes
    take turns in proportion to their items. A share of all batches, evenly spread, holds pictures instead.

    With several processes and accumulation, number the small batches through:
    `number = (step * accumulation + turn) * num_processes + rank`. Then two processes see what one process
    with twice the accumulation sees.

    Args:
        dataset: gives the items and their sizes.
        batch_size: items of a batch.
        seed: of the shuffling.
        image_fraction: share of the batches that hold one-frame clips, 0 to 1.

    Raises:
        ValueError: a batch size below 1, or a share outside 0 to 1.
    """

    def __init__(self, dataset: Buckets, batch_size: int, seed: int, image_fraction: float = 0.0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 (given {batch_size})")
        if not 0 <= image_fraction <= 1:
            raise ValueError(f"image_fraction must be from 0 to 1 (given {image_fraction}); 0.2 is usual")
        self.batch_size, self.seed, self.image_fraction = batch_size, seed, image_fraction
        self._clips = _Streams(list(dataset.buckets().values()), batch_size, (seed, 0))
        self._pictures = _Streams(list(dataset.buckets(pictures=True).values()), batch_size, (seed, 1))

    def batch(self, number: int) -> list[Draw]:
        """The draws of batch `number`, counted from 0 over the whole training; indices for the dataset."""
        pictures_before = int(number * self.image_fraction + 1e-9)
        if int((number + 1) * self.image_fraction + 1e-9) > pictures_before:
            return [Draw(epoch, item, True) for epoch, item in self._pictures.batch(pictures_before)]
        return [Draw(epoch, item) for epoch, item in self._clips.batch(number - pictures_before)]


class _Streams:
    """Shuffled streams of items, one for each bucket, and whose turn it is."""

    def __init__(self, buckets: Sequence[Sequence[int]], batch_size: int, key: tuple[int, int]) -> None:
        self._buckets = [np.array(items) for items in buckets]
        self._batch_size, self._key = batch_size, key
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        # One round has a turn for every item, so each bucket has as many turns as items.
        rng = np.random.default_rng([*key, 0])
        turns = [(np.arange(len(items)) + rng.random()) / len(items) for items in buckets]
        owners = np.concatenate([np.full(len(items), index) for index, items in enumerate(buckets)])
        self._turns = owners[np.argsort(np.concatenate(turns), kind="stable")]
        self._earlier = np.zeros(len(self._turns), np.int64)  # turns of the same bucket before this one
        for index in range(len(buckets)):
            own = self._turns == index
            self._earlier[own] = np.arange(own.sum())

    def batch(self, number: int) -> list[tuple[int, int]]:
        """(epoch, item) pairs; an epoch is a lap of the bucket's own stream."""
        whole_rounds, turn = divmod(number, len(self._turns))
        bucket = int(self._turns[turn])
        items = self._buckets[bucket]
        start = (whole_rounds * len(items) + int(self._earlier[turn])) * self._batch_size
        pairs = []
        for place in range(start, start + self._batch_size):
            epoch, offset = divmod(place, len(items))
            pairs.append((epoch, int(items[self._order(bucket, epoch)[offset]])))
        return pairs

    def _order(self, bucket: int, epoch: int) -> np.ndarray:
        """The shuffle of one lap; the latest of each bucket is kept."""
        kept = self._orders.get(bucket)
        if kept is None or kept[0] != epoch:
            rng = np.random.default_rng([*self._key, 1, bucket, epoch])
            kept = (epoch, rng.permutation(len(self._buckets[bucket])))
            self._orders[bucket] = kept
        return kept[1]
