"""Clips as tensors: in an order made of seed and batch number alone, their encodings cached on disk."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset

from video_diffusion.training.data.cutting import (
    ClipPlan,
    Size,
    TooShort,
    Windows,
    frames_at,
    num_starts,
    plan_clips,
    sample_times,
)
from video_diffusion.training.data.manifest import ClipEntry, check_unchanged
from video_diffusion.video import write_bytes
from video_diffusion.video.images import fit


class Draw(NamedTuple):
    """One item of a batch: which clip (a picture: which of `plan.pictures`), drawn for which time."""

    epoch: int
    item: int
    picture: bool = False


@dataclass(frozen=True)
class SampledClip:
    """One training clip, decided but not read.

    Attributes:
        entry: the row it comes from.
        times: of its frames, seconds of the file.
        size: width and height.
        flipped: left and right change places.
    """

    entry: ClipEntry
    times: tuple[float, ...]
    size: Size
    flipped: bool = False

    @property
    def content_key(self) -> str:
        """SHA-256 of all that decides its pixels: the file's own sha256, times, size, flip."""
        facts = [self.entry.sha256, self.times, self.size, self.flipped, "bicubic"]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class ClipDataset(Dataset[dict[str, Any]]):
    """The training clips of a manifest.

    `dataset[i]` is clip i of epoch 0, `dataset[Draw(epoch, i)]` of any epoch; so a torch `DataLoader` with
    `batch_sampler=[order.batch(k) for k in range(first, last)]` (see `ClipOrder`) reads any stretch of the
    training, from any process, in any number of workers, and always the same clips. An item is a dict:

        frames   uint8 tensor f c h w, RGB; left out where `is_cached` says so
        caption  as in the manifest
        id       of the entry; several clips share it where `windows` is all
        key      `SampledClip.content_key`, under which latents are kept
        picture  whether it is a one-frame clip drawn as a picture: no gradient for temporal layers
        item     the number asked for, epoch likewise

    Args:
        entries: from `read_manifest`.
        root: the folder of the manifest.
        num_frames: of a clip.
        fps: of a clip; frames are chosen by their real times (see `cutting`).
        sizes: (width, height), the nearest in aspect for each clip (see `aspect_buckets`); None for every
            clip's own size. Frames are resized to cover the size and cropped about the centre.
        seed: of the random window starts, picture times and flips.
        random_start: the window starts anywhere it fits; False takes the earliest place every time, so that
            cached latents serve all epochs.
        flip: mirrors every other clip. Captions that say left or right then lie.
        hash_files: each file is compared with the manifest before its first reading in a process, by size and
            time; True reads all of its bytes for that.
        is_cached: asked with an item's key; where it says yes, the file is not read.
        starts: places, evenly spread, at which a window may start in its stretch; None allows every frame.
        too_short, windows, repeat_frames, allow_upscaling: as `plan_clips`.

    Attributes:
        plan: clips, pictures and what cannot be used, with reasons.

    Raises:
        ValueError: nothing can be used (the commonest reason is named), or a setting is wrong.
    """

    def __init__(
        self,
        entries: Sequence[ClipEntry],
        root: Path | str,
        num_frames: int,
        fps: Fraction,
        sizes: Sequence[Size] | None,
        *,
        seed: int = 0,
        random_start: bool = True,
        starts: int | None = None,
        flip: bool = False,
        hash_files: bool = False,
        is_cached: Callable[[str], bool] | None = None,
        too_short: TooShort = "reject",
        windows: Windows = "one",
        repeat_frames: bool = False,
        allow_upscaling: bool = False,
    ) -> None:
        self.root, self.num_frames, self.fps = Path(root), num_frames, fps
        self.seed, self.random_start, self.starts, self.flip = seed, random_start, starts, flip
        self.hash_files, self.is_cached = hash_files, is_cached
        self.plan = plan_clips(
            entries,
            num_frames=num_frames,
            fps=fps,
            sizes=sizes,
            too_short=too_short,
            windows=windows,
            repeat_frames=repeat_frames,
            allow_upscaling=allow_upscaling,
        )
        if not self.plan.clips:
            raise ValueError(
                f"{self.root}: none of {len(entries)} clips can be used; {_commonest(self.plan)}"
            )
        self._verified: set[str] = set()

    def __len__(self) -> int:
        """Training clips in an epoch."""
        return len(self.plan.clips)

    def __getitem__(self, draw: int | Draw) -> dict[str, Any]:
        """Reads one clip."""
        draw = draw if isinstance(draw, Draw) else Draw(0, draw)
        clip = self.sample(draw)
        item: dict[str, Any] = {
            "caption": clip.entry.caption,
            "id": clip.entry.id,
            "key": clip.content_key,
            "picture": draw.picture,
            "item": draw.item,
            "epoch": draw.epoch,
        }
        if self.is_cached is None or not self.is_cached(item["key"]):
            item["frames"] = torch.from_numpy(self.read(clip))
        return item

    def sample(self, draw: Draw) -> SampledClip:
        """Decides a clip without opening its file: a pure function of the seed, the entry and the draw."""
        planned = (self.plan.pictures if draw.picture else self.plan.clips)[draw.item]
        name = hashlib.sha256(planned.entry.id.encode()).digest()[:8]
        purpose = [planned.segment, int(draw.picture)]
        rng = np.random.default_rng([self.seed, draw.epoch, int.from_bytes(name), *purpose])
        position, side = float(rng.random()), float(rng.random())
        flipped = self.flip and side < 0.5
        # A picture of a video is its frame at any time.
        starts = None if draw.picture else self.starts
        position = position if self.random_start else 0.0
        times = sample_times(planned, planned.num_frames, self.fps, position, starts)
        return SampledClip(planned.entry, times, planned.size, flipped)

    @cached_property
    def _ends(self) -> np.ndarray:
        """How many windows there are up to and with each clip."""
        places = [num_starts(clip, self.starts) if self.random_start else 1 for clip in self.plan.clips]
        return np.cumsum(places) * (2 if self.flip else 1)

    @property
    def num_windows(self) -> int:
        """How many different clips all epochs may draw, pictures apart."""
        return int(self._ends[-1])

    def window(self, number: int) -> SampledClip:
        """One of them."""
        item = int(np.searchsorted(self._ends, number, side="right"))
        planned, first = self.plan.clips[item], int(self._ends[item - 1]) if item else 0
        kinds = 2 if self.flip else 1
        place, count = (number - first) // kinds, (int(self._ends[item]) - first) // kinds
        times = sample_times(planned, planned.num_frames, self.fps, place / count, self.starts)
        return SampledClip(planned.entry, times, planned.size, (number - first) % kinds == 1)

    def read(self, clip: SampledClip) -> UInt8[np.ndarray, "f c h w"]:
        """Verifies, decodes, resizes and crops the frames of a clip.

        Raises:
            ClipChangedError, VideoReadError: as `__getitem__`.
        """
        path = self.root / clip.entry.path
        if clip.entry.path not in self._verified:
            check_unchanged(clip.entry, self.root, self.hash_files)
            self._verified.add(clip.entry.path)
        found = frames_at(path, clip.times)
        frames = np.stack([fit(frame, clip.size[1], clip.size[0]) for frame in found])
        if clip.flipped:
            frames = frames[:, :, ::-1]
        return np.ascontiguousarray(rearrange(frames, "f h w c -> f c h w"))

    def buckets(self, pictures: bool = False) -> dict[tuple[int, ...], list[int]]:
        """The items of each width, height and number of frames, which alone can share a batch."""
        found: dict[tuple[int, ...], list[int]] = {}
        for item, planned in enumerate(self.plan.pictures if pictures else self.plan.clips):
            found.setdefault((*planned.size, planned.num_frames), []).append(item)
        return found


def _commonest(plan: ClipPlan) -> str:
    reasons = [unusable.reason for unusable in plan.unusable]
    if not reasons:
        return "all are single pictures; training of temporal layers needs videos"
    first = plan.unusable[0]
    return f"the first, {first.entry.path}, {first.reason}"


# The order of training: which clips are in batch number k, from the seed and k alone.


@runtime_checkable
class Buckets(Protocol):
    """What an order asks of a data set; `ClipDataset` is one."""

    def buckets(self, pictures: bool = False) -> Mapping[tuple[int, ...], Sequence[int]]:
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


# Encodings kept on disk by what they were made from: latents of clips, embeddings of captions.
#
# The name of an entry is a hash of its source and of its encoder, so an entry never becomes wrong: whatever
# changes, changes the name. Entries appear whole or not at all; one that the disk has damaged is made anew.


_FORMAT = 1


class LatentCache:
    """Tensors by key, in one folder, for any number of processes at once.

    ```python
    cache = LatentCache(folder, encoder=module_sha256(vae), dtype="float32")
    latents = cache.get_or_encode(item["key"], lambda: encode(item["frames"]))
    ```

    Args:
        folder: made when the first entry is written.
        encoder: what encodes, exactly: `module_sha256` of the VAE, or of the text encoder and its tokenizer's
            name together.
        dtype: what the encoder computes in, which decides the last bits.
        max_bytes: of all its files; beyond, the oldest go. None keeps all.
    """

    def __init__(
        self, folder: Path | str, encoder: str, dtype: str = "float32", max_bytes: int | None = None
    ) -> None:
        self.folder, self._facts = Path(folder), [_FORMAT, encoder, dtype]
        self.max_bytes, self._room = max_bytes, 0

    def get_or_encode(self, key: str, encode: Callable[[], Tensor]) -> Tensor:
        """The kept tensor, or else what `encode` returns, which is then kept: the same bits, on the CPU."""
        kept = self.get(key)
        if kept is None:
            kept = encode().detach().cpu().contiguous()
            self.put(key, kept)
        return kept

    def get(self, key: str) -> Tensor | None:
        """The tensor under a key; None where there is none, or only a damaged one."""
        path, name = self._place(key)
        with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor("value")
            if file.metadata() == {"name": name, "sha256": _sha256(tensor)}:
                return tensor
        return None

    def put(self, key: str, value: Tensor) -> None:
        """Keeps a tensor under a key, synced to disk."""
        path, name = self._place(key)
        value = value.detach().cpu().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        content = save({"value": value}, {"name": name, "sha256": _sha256(value)})
        if self.max_bytes is not None:
            if len(content) > self._room:
                self._room = self._make_room(self.max_bytes, len(content))
            if len(content) > self._room:
                return
            self._room -= len(content)
        write_bytes(path, content)

    def _make_room(self, max_bytes: int, wanted: int) -> int:
        """Take the oldest entries away until a tenth is free; returns the bytes that may be written now.

        Other processes may do the same at the same time, and each overlooks what the others write meanwhile.
        """
        found = []
        for path in self.folder.glob("*/*.safetensors"):
            with suppress(OSError):
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size, path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used + max(wanted, max_bytes // 10) <= max_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size
        return max_bytes - used

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry, without reading it; for `ClipDataset`'s `is_cached`."""
        return self._place(key)[0].is_file()

    def _place(self, key: str) -> tuple[Path, str]:
        """File and name of an entry; folders of a 256th each keep directories small."""
        name = hashlib.sha256(json.dumps([*self._facts, key]).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors", name


def module_sha256(module: nn.Module, *further: object) -> str:
    """SHA-256 of a module's class, tensors (names, types, shapes, values) and configuration."""
    config = getattr(module, "config", {})
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {name: value for name, value in plain.items() if not name.startswith("_")}
    facts = [type(module).__name__, kept, further]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def _sha256(tensor: Tensor) -> str:
    facts = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(facts + _bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
