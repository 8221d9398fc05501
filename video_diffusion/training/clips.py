"""Clips for training: from the folders of the settings, mixed by weight, encoded once if possible."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from video_diffusion.loading import ModelParts
from video_diffusion.models import encode_frames
from video_diffusion.settings.training import ClipSettings, TrainingSettings
from video_diffusion.training.data import (
    ClipDataset,
    ClipEntry,
    ClipOrder,
    Draw,
    manifest_sha256,
    read_manifest,
)
from video_diffusion.training.data.cutting import aspect_buckets, held_out_ids
from video_diffusion.training.data.dataset import LatentCache, SampledClip, module_sha256
from video_diffusion.training.data.manifest import ClipChangedError
from video_diffusion.video import VideoReadError

GOLDEN_RATIO = (5**0.5 - 1) / 2
MAX_REPLACEMENTS = 16  # clips tried for one place of a batch; if none can be read, the disk is gone

Item = Mapping[str, Any]
"""A clip as `ClipDataset` gives it: frames (or a key under which latents are kept), caption, id, key.

A `ClipMix` adds the number of its source, and `lost`: why the clips whose place it takes could not be read.
"""


@runtime_checkable
class Clips(Protocol):
    """What training asks of a source of clips; `ClipDataset` and `MemoryClips` are two."""

    def __len__(self) -> int:
        """Clips in an epoch."""
        ...

    def __getitem__(self, draw: Draw) -> Item:
        """One clip: a pure function of the draw."""
        ...

    def buckets(self, pictures: bool = False) -> Mapping[tuple[int, ...], Sequence[int]]:
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

    def buckets(self, pictures: bool = False) -> Mapping[tuple[int, ...], Sequence[int]]:
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
        """The clips of batch `number`; `lost` of an item holds what was wrong with those it stands for."""
        return [self._read(source, draw) for source, draw in self.batch(number)]

    def read_again(self, item: Item) -> Item:
        """An item that came without frames, since its latents were thought to be kept, with them."""
        draw = Draw(item["epoch"], item["item"], item["picture"])
        again = self._read(item["source"], draw, whole=True)
        return {**again, "lost": (*item["lost"], *again["lost"])}

    def _read(self, source: int, draw: Draw, whole: bool = False) -> Item:
        """A clip, or, if its file cannot be read, the next of its size that can: the same in every run."""
        clips, lost = self.clips[source], list[str]()
        for place in islice(_places(clips, draw), MAX_REPLACEMENTS):
            try:
                item = dict(clips[place])
                if whole and "frames" not in item and isinstance(clips, ClipDataset):
                    item["frames"] = torch.from_numpy(clips.read(clips.sample(place)))
            except (ClipChangedError, VideoReadError, OSError) as error:
                lost.append(str(error))
                last_error = error
            else:
                return {**item, "source": source, "lost": tuple(lost)}
        raise last_error

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


def _places(clips: Clips, draw: Draw) -> Iterator[Draw]:
    """A draw, then the other clips of its size in turn, from the one after it."""
    yield draw
    for items in clips.buckets(draw.picture).values():
        if draw.item in items:
            place = list(items).index(draw.item)
            for item in (*items[place + 1 :], *items[:place]):
                yield draw._replace(item=item)


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


# Clips and captions as the network sees them: latents and prompt embeddings, computed once if possible.


MAX_KEPT_CAPTIONS = 4096


class EncodingCaches:
    """Where encodings are kept on disk, by content: no change of a file, model or caption finds a wrong one.

    Args:
        folder: May be shared by any number of runs.
        parts: What encodes.
        max_gb: Of the clips' encodings, in 10^9 bytes; None keeps all.
    """

    def __init__(self, folder: Path, parts: ModelParts, max_gb: float | None = None) -> None:
        max_bytes = None if max_gb is None else int(max_gb * 1e9)
        self.latents = LatentCache(
            folder / "latents", module_sha256(parts.vae), str(parts.vae.dtype), max_bytes
        )
        readers = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
        facts = [
            module_sha256(each, *_vocabulary(tokenizer)) for tokenizer, each in readers if each is not None
        ]
        dtype = f"{parts.text_encoder.dtype}, zeros for empty: {parts.zeros_for_empty_prompt}"
        self.captions = LatentCache(folder / "captions", " ".join(facts), dtype)


class ClipEncoder:
    """Encodes clips one by one, so that latents never depend on the batch; captions likewise.

    Args:
        parts: The model; its autoencoder and text encoders are frozen.
        read_again: Reads an item with its frames, which were left unread because its latents were thought to
            be kept; it may give another one.
        caches: Where encodings are kept; None encodes every time.
        chunk_size: Frames encoded at once.
    """

    def __init__(
        self,
        parts: ModelParts,
        read_again: Callable[[Item], Item],
        caches: EncodingCaches | None = None,
        chunk_size: int = 16,
    ) -> None:
        self.parts, self.read_again, self.caches, self.chunk_size = parts, read_again, caches, chunk_size
        self.device = parts.unet.device
        self._kept: dict[str, Tensor] = {}
        self._used = {"vae": True, "text": True}

    def rest(self) -> None:
        """Send what has encoded nothing since the last call away from the device, where memory is dear."""
        for kind, used in self._used.items():
            if not used:
                self._move(kind, torch.device("cpu"))
        self._used = dict.fromkeys(self._used, False)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Inside, autoencoder and text encoders are on the device."""
        for kind in self._used:
            self._use(kind)
        yield

    def _use(self, kind: str) -> None:
        self._used[kind] = True
        self._move(kind, self.device)

    def _move(self, kind: str, device: torch.device) -> None:
        parts = self.parts
        for module in [parts.vae] if kind == "vae" else [parts.text_encoder, parts.text_encoder_2]:
            if module is not None and module.device != device:
                module.to(device)

    def encode(self, items: Sequence[Item]) -> tuple[list[Item], Float[Tensor, "b *k c f h w"]]:
        """The clips' latents, float32, on the CPU; and the clips themselves, some of them replaced."""
        pairs = [self._clip(item) for item in items]
        return [item for item, _ in pairs], torch.stack([latents for _, latents in pairs])

    def latents(self, items: Sequence[Item]) -> Float[Tensor, "b *k c f h w"]:
        """The clips' latents alone."""
        return self.encode(items)[1]

    def prompts(self, captions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """The captions' embeddings, on the CPU."""
        encode = self.parts.encode_prompts
        return torch.cat([self._once(caption, partial(encode, [caption])) for caption in captions])

    def conditions(self, captions: Sequence[str], height: int, width: int) -> Mapping[str, Tensor] | None:
        """What an SDXL U-Net reads besides, for clips of a size in pixels; None for other models."""
        if self.parts.text_encoder_2 is None:
            return None

        def pooled(caption: str) -> Tensor:
            return (self.parts.added_conditions([caption], height, width) or {})["text_embeds"]

        kept = [self._once(f"pooled {caption}", partial(pooled, caption)) for caption in captions]
        added = self.parts.added_conditions([""], height, width) or {}
        return {"text_embeds": torch.cat(kept), "time_ids": added["time_ids"].cpu().expand(len(captions), -1)}

    def _clip(self, item: Item) -> tuple[Item, Float[Tensor, "*k c f h w"]]:
        if "knots" in item:  # of a teacher, see `distil`
            return item, item["knots"]
        kept = self.caches.latents.get(item["key"]) if self.caches else None
        if kept is not None:
            return item, kept
        if "frames" not in item:
            item = self.read_again(item)
        self._use("vae")
        latents = encode_frames(self.parts.vae, item["frames"].float() / 255, self.chunk_size)
        latents = latents.float().cpu().contiguous()
        if self.caches:
            self.caches.latents.put(item["key"], latents)
        return item, latents

    def _once(self, key: str, encode: Callable[[], Tensor]) -> Tensor:
        """An encoding of a caption, kept in memory and, if there are caches, on disk."""
        if key not in self._kept:
            if len(self._kept) >= MAX_KEPT_CAPTIONS:
                self._kept.pop(next(iter(self._kept)))
            made = self.caches.captions.get(key) if self.caches else None
            if made is None:
                self._use("text")
                made = encode()
                if self.caches:
                    self.caches.captions.put(key, made)
            self._kept[key] = made.detach().cpu()
        return self._kept[key]


def _vocabulary(tokenizer: CLIPTokenizer) -> tuple[int, str]:
    """What decides how a tokenizer reads a text: its length and the hash of its words."""
    words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return int(tokenizer.model_max_length), hashlib.sha256(words).hexdigest()


# From the folders of the settings to clips for training and clips held out from it.


REJECTS_FILE = "rejects.jsonl"


@dataclass(frozen=True)
class Sources:
    """The clips of a run.

    Attributes:
        training: Sources with their weights.
        held_out: Clips that training never sees, one entry for each folder that has some.
        hashes: For each folder, numbered in order, the hash of what training sees of it and its weight.
        num_clips: For each folder by name, clips of an epoch.
        may_miss: For each folder, how many of its files may be missing or broken before the run stops.
        num_held_out: For each folder, clips kept from training.
        unused: One line for each folder some of whose clips cannot be used: how many, and why the first.
        captions: Of all clips in all folders.
    """

    training: tuple[Weighted, ...]
    held_out: tuple[Clips, ...]
    hashes: Mapping[str, str]
    num_clips: Mapping[str, int]
    may_miss: tuple[int, ...]
    num_held_out: tuple[int, ...]
    unused: tuple[str, ...]
    captions: tuple[str, ...]


def open_sources(
    settings: TrainingSettings,
    defaults: Mapping[str, Any],
    is_cached: Callable[[str], bool] | None = None,
) -> Sources:
    """Read the manifests of all folders and plan their clips; no video is opened."""
    training, held_out, num_held_out = list[Weighted](), list[Clips](), list[int]()
    unused, captions, may_miss = list[str](), list[str](), list[int]()
    hashes, counts = dict[str, str](), dict[str, int]()
    folders = [(Path(source.path), read_manifest(source.path)) for source in settings.data]
    apart = _held_out(folders, settings, defaults, unused)
    apart_files = {entry.sha256 for (_, entries), ids in zip(folders, apart, strict=True)
                   for entry in entries if entry.id in ids}  # fmt: skip
    for number, (source, (root, listed), ids) in enumerate(zip(settings.data, folders, apart, strict=True)):
        entries = [_captioned(entry, settings.clips.caption_prefix) for entry in listed]
        captions += [entry.caption for entry in entries if entry.caption]
        rest = [entry for entry in entries if entry.sha256 not in apart_files]
        shared = len(entries) - len(rest) - len(ids)
        if shared > 0:
            unused.append(
                f"{root}: {shared} clips are left out, since a clip that is held out comes from the same "
                "file or from a copy of it"
            )
        if not rest:
            raise ValueError(
                f"{root}: every clip shares its file with one that is held out, so none is left to train on; "
                "set clips.held_out to 0"
            )
        clips = _dataset(rest, root, settings, defaults, is_cached=is_cached)
        if ids:
            those = [entry for entry in entries if entry.id in ids]
            held_out.append(_dataset(those, root, settings, defaults, held_out=True))
        training.append(Weighted(clips, source.weight))
        num_held_out.append(len(ids))
        may_miss.append(source.may_miss(len({entry.path for entry in entries})))
        hashes[f"folder_{number}"] = f"{manifest_sha256(listed)}, weight {source.weight:g}"
        counts[f"{source.path}"] = len(clips)
    return Sources(
        training=tuple(training),
        held_out=tuple(held_out),
        hashes=hashes,
        num_clips=counts,
        may_miss=tuple(may_miss),
        num_held_out=tuple(num_held_out),
        unused=tuple(unused),
        captions=tuple(captions),
    )


def _held_out(
    folders: Sequence[tuple[Path, Sequence[ClipEntry]]],
    settings: TrainingSettings,
    defaults: Mapping[str, Any],
    unused: list[str],
) -> list[frozenset[str]]:
    """The ids of each folder's clips that are held out; what cannot be used is noted besides."""
    found = []
    for root, entries in folders:
        clips = _dataset(entries, root, settings, defaults)
        unused += _unused(root, clips)
        ids = held_out_ids(clips.plan, settings.clips.held_out)
        files = {entry.sha256 for entry in entries if entry.id in ids}
        if ids and files >= {entry.sha256 for entry in entries} and settings.clips.held_out is None:
            unused.append(f"{root}: no clip is held out, since all of them come from the same few files")
            ids = frozenset()
        found.append(ids)
    return found


def _captioned(entry: ClipEntry, prefix: str | None) -> ClipEntry:
    """An entry whose caption begins with a prefix; of a clip without a caption, that is all of it."""
    if prefix is None:
        return entry
    return replace(entry, caption=f"{prefix}{entry.caption}" if entry.caption else prefix.rstrip(" ,"))


def _unused(folder: Path, clips: ClipDataset) -> list[str]:
    """What the check rejected, and what these settings cannot use."""
    lines = []
    rejects = folder / REJECTS_FILE
    count = len(rejects.read_text(encoding="utf-8").splitlines()) if rejects.is_file() else 0
    if count:
        lines.append(f"{folder}: {count} files were rejected by the data check; {rejects} has each reason")
    if clips.plan.unusable:
        first = clips.plan.unusable[0]
        lines.append(
            f"{folder}: {len(clips.plan.unusable)} clips cannot be used; the first, {first.entry.path}, "
            f"{first.reason}"
        )
    return lines


def clip_size(clips: ClipSettings, defaults: Mapping[str, Any]) -> tuple[int, int, int, Fraction]:
    """Frames, height, width and rate of training clips: the settings', else the model's own."""
    numbers = (clips.num_frames, clips.height, clips.width)
    names = ("num_frames", "height", "width")
    num_frames, height, width = (
        int(defaults[name] if value is None else value) for name, value in zip(names, numbers, strict=True)
    )
    return num_frames, height, width, clips.fps or Fraction(str(defaults["fps"]))


def _dataset(
    entries: Sequence[ClipEntry],
    root: Path,
    settings: TrainingSettings,
    defaults: Mapping[str, Any],
    held_out: bool = False,
    is_cached: Callable[[str], bool] | None = None,
) -> ClipDataset:
    clips = settings.clips
    num_frames, height, width, fps = clip_size(clips, defaults)
    sizes = aspect_buckets((width, height)) if clips.aspect_buckets else ((width, height),)
    return ClipDataset(
        entries,
        root,
        num_frames,
        fps,
        sizes,
        seed=settings.seed,
        random_start=clips.random_start and not held_out,
        starts=clips.starts,
        flip=clips.flip and not held_out,
        is_cached=is_cached,
        too_short=clips.too_short,
        windows=clips.windows,
        repeat_frames=clips.repeat_frames,
        allow_upscaling=clips.allow_upscaling,
    )


# Encodings made before the training, so that it never waits for a video.


MOST_LOOKED_UP = 2000  # encodings of a run that are looked for when it begins


@dataclass(frozen=True)
class CachePlan:
    """What the encodings of all clips that a run may draw take.

    Attributes:
        datasets: Whose clips they are.
        cache: Where they are, or will be.
        bytes_each: Of one, about.
    """

    datasets: tuple[ClipDataset, ...]
    cache: LatentCache
    bytes_each: int

    def __len__(self) -> int:
        """How many clips there are."""
        return sum(each.num_windows for each in self.datasets)

    @property
    def num_bytes(self) -> int:
        """Of all of them, about."""
        return self.bytes_each * len(self)

    def window(self, number: int) -> tuple[ClipDataset, SampledClip]:
        """One of the clips."""
        for dataset in self.datasets:
            if number < dataset.num_windows:
                break
            number -= dataset.num_windows
        return dataset, dataset.window(number)

    def is_there(self, number: int) -> bool:
        """Whether the encoding of one of the clips is kept already."""
        return self.window(number)[1].content_key in self.cache

    def num_there(self, most: int = MOST_LOOKED_UP) -> int:
        """How many are kept already; of more than `most` about so many, judged by as many evenly chosen."""
        looked_up = min(len(self), most)
        there = sum(self.is_there(number * len(self) // looked_up) for number in range(looked_up))
        return round(there / looked_up * len(self))


def plan_cache(sources: Sources, cache: LatentCache, latent_shape: tuple[int, int, int]) -> CachePlan | None:
    """The clips of a run whose encodings can all be kept; None if windows may start at any frame.

    Args:
        sources: Of the run.
        cache: Where they are, or will be.
        latent_shape: Channels, height and width of one frame's.
    """
    datasets = [each.clips for each in sources.training] + list(sources.held_out)
    found = [each for each in datasets if isinstance(each, ClipDataset)]
    if len(found) < len(datasets):
        return None
    if any(each.starts is None and each.num_windows > len(each) * (1 + each.flip) for each in found):
        return None
    frames = max(each.num_frames for each in found)
    size = 4 * frames * latent_shape[0] * latent_shape[1] * latent_shape[2] + ENTRY_BYTES
    return CachePlan(tuple(found), cache, size)


ENTRY_BYTES = 300  # of an entry beside its numbers


class _Windows(Dataset[Item]):
    """Clips of a plan, read by a `DataLoader`'s workers."""

    def __init__(self, plan: CachePlan) -> None:
        self.plan = plan

    def __getitem__(self, number: int) -> Item:
        dataset, clip = self.plan.window(number)
        item = {"key": clip.content_key, "id": clip.entry.id, "caption": clip.entry.caption}
        try:
            return {**item, "frames": torch.from_numpy(dataset.read(clip))}
        except (ClipChangedError, VideoReadError, OSError) as error:
            return {**item, "problem": str(error)}


def encode_ahead(
    plan: CachePlan,
    parts: ModelParts,
    caches: EncodingCaches,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, int, str]]:
    """Encode what is missing, yielding (done, of how many, what is wrong with this clip if anything is).

    Args:
        plan: From `plan_cache`.
        parts: The model; its autoencoder is where it shall compute.
        caches: Where encodings are kept.
        num_workers: Processes that read clips ahead.
        shard: (i, n): take every n-th clip from the i-th on.
    """
    index, count = shard
    missing = [number for number in range(len(plan)) if not plan.is_there(number)][index::count]
    encoder = ClipEncoder(parts, lambda item: item, caches)
    items = DataLoader(_Windows(plan), batch_size=None, sampler=missing, num_workers=num_workers)
    with torch.no_grad():
        for done, item in enumerate(items, start=1):
            if "problem" not in item:
                encoder.encode([item])
                encoder.prompts([item["caption"]])
            yield done, len(missing), str(item.get("problem", ""))
