"""Which clips a step sees: several sources mixed by weight, in an order that can be entered anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from video_diffusion.training.data import ClipOrder, Draw

GOLDEN_RATIO = (5**0.5 - 1) / 2

Item = Mapping[str, Any]
"""A clip as `ClipDataset` gives it: frames (or a key under which latents are kept), caption, id, key."""


@runtime_checkable
class Clips(Protocol):
    """What training asks of a source of clips; `ClipDataset` and `MemoryClips` are two."""

    def __len__(self) -> int:
        """Clips in an epoch."""
        ...

    def __getitem__(self, draw: Draw) -> Item:
        """One clip: a pure function of the draw."""
        ...

    def buckets(self, pictures: bool = False) -> Mapping[tuple[int, int], Sequence[int]]:
        """The items of each size (width, height), which alone can share a batch."""
        ...


class MemoryClips:
    """Clips that lie in memory, all of one size.

    Args:
        frames: One uint8 tensor `f c h w` for each clip.
        captions: One for each clip.
        ids: One for each clip; None numbers them.
    """

    def __init__(
        self, frames: Sequence[Tensor], captions: Sequence[str], ids: Sequence[str] | None = None
    ) -> None:
        if len(frames) != len(captions) or not frames:
            raise ValueError(f"captions must be one for each of {len(frames)} clips, but are {len(captions)}")
        self.frames, self.captions = list(frames), list(captions)
        self.ids = list(ids) if ids is not None else [str(number) for number in range(len(frames))]

    def __len__(self) -> int:
        """Clips in an epoch."""
        return len(self.frames)

    def __getitem__(self, draw: Draw) -> Item:
        """One clip; a picture is one of its frames, which the epoch chooses."""
        frames, name = self.frames[draw.item], self.ids[draw.item]
        if draw.picture:
            number = draw.epoch % len(frames)
            frames, name = frames[number : number + 1], f"{name}#{number}"
        return {"frames": frames, "caption": self.captions[draw.item], "id": name, "key": name}

    def buckets(self, pictures: bool = False) -> Mapping[tuple[int, int], Sequence[int]]:
        """All items under the one size."""
        height, width = self.frames[0].shape[-2:]
        return {(width, height): range(len(self.frames))}


@dataclass(frozen=True)
class Weighted:
    """A source and its share of what is seen, relative to the other sources."""

    clips: Clips
    weight: float = 1.0


class ClipMix:
    """Numbered batches from several sources; any of them can be asked for, in any order, on any machine.

    Where all clips have one size and there are no pictures, every batch is mixed; else each batch, numbered
    as `ClipOrder` says, comes from one source. Sources take turns by the golden ratio, which keeps every
    stretch of the training close to the weights.

    Args:
        sources: At least one.
        batch_size: Clips that are computed at once.
        seed: Of the order.
        image_fraction: Share of the batches that hold one-frame clips.
    """

    def __init__(
        self, sources: Sequence[Weighted], batch_size: int, seed: int, image_fraction: float = 0.0
    ) -> None:
        sizes = {size for source in sources for size in source.clips.buckets()}
        self.is_mixed = len(sizes) == 1 and image_fraction == 0
        self.piece_size = 1 if self.is_mixed else batch_size
        self.batch_size = batch_size
        self.clips = [source.clips for source in sources]
        weights = np.array([source.weight for source in sources])
        self._upper = np.cumsum(weights / weights.sum())[:-1]
        self._orders = [
            ClipOrder(source.clips, self.piece_size, seed + index, image_fraction)
            for index, source in enumerate(sources)
        ]
        self._owners = self._earlier = np.zeros(0, np.int64)

    def batch(self, number: int) -> list[tuple[int, Draw]]:
        """(source, draw) of each clip of batch `number`."""
        pieces = self.batch_size // self.piece_size
        found: list[tuple[int, Draw]] = []
        for piece in range(number * pieces, (number + 1) * pieces):
            owner, earlier = self._turn(piece)
            found += [(owner, draw) for draw in self._orders[owner].batch(earlier)]
        return found

    def read(self, number: int) -> list[Item]:
        """The clips of batch `number`."""
        return [self._read(source, draw) for source, draw in self.batch(number)]

    def read_again(self, item: Item) -> Tensor:
        """The frames of an item that came without, since its latents were thought to be kept."""
        clips: Any = self.clips[item["source"]]
        draw = Draw(item["epoch"], item["item"], item["picture"])
        return torch.from_numpy(clips.read(clips.sample(draw)))

    def _read(self, source: int, draw: Draw) -> Item:
        return {**self.clips[source][draw], "source": source}

    def _turn(self, piece: int) -> tuple[int, int]:
        """Whose turn a piece is, and how many turns that source had before."""
        if piece >= len(self._owners):
            places = (np.arange(max(1024, 2 * piece)) + 0.5) * GOLDEN_RATIO % 1
            self._owners = np.searchsorted(self._upper, places, side="right")
            self._earlier = np.zeros(len(places), np.int64)
            for owner in range(len(self.clips)):
                own = self._owners == owner
                self._earlier[own] = np.arange(own.sum())
        return int(self._owners[piece]), int(self._earlier[piece])


class _Batches(Dataset[list[Item]]):
    """Batches by number, for a `DataLoader` whose workers read ahead."""

    def __init__(self, mix: ClipMix) -> None:
        self.mix = mix

    def __getitem__(self, number: int) -> list[Item]:
        return self.mix.read(number)


def read_ahead(mix: ClipMix, numbers: Sequence[int], num_workers: int) -> DataLoader[list[Item]]:
    """Read batches in order, ahead of their use if there are workers; which clips never depends on them."""
    own_generator = torch.Generator().manual_seed(0)  # else a loader draws from the global random state
    return DataLoader(
        _Batches(mix), batch_size=None, sampler=numbers, num_workers=num_workers, generator=own_generator
    )
