"""Training clips from a manifest: each a pure function of (seed, epoch, item), read at real timestamps."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch.utils.data import Dataset

from video_diffusion.training.data.clip_file import check_unchanged
from video_diffusion.training.data.clip_frames import fit, frames_at
from video_diffusion.training.data.clip_plan import (
    ClipPlan,
    Size,
    TooShort,
    Windows,
    plan_clips,
    sample_times,
)
from video_diffusion.training.data.manifest import ClipEntry


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
        fps: of a clip; frames are chosen by their real times (see `clip_plan`).
        sizes: (width, height), the nearest in aspect for each clip (see `aspect_buckets`); None for every
            clip's own size. Frames are resized to cover the size and cropped about the centre.
        seed: of the random window starts, picture times and flips.
        random_start: the window starts anywhere it fits; False takes the earliest place every time, so that
            cached latents serve all epochs.
        flip: mirrors every other clip. Captions that say left or right then lie.
        hash_files: each file is compared with the manifest before its first reading in a process, by size and
            time; True reads all of its bytes for that.
        is_cached: asked with an item's key; where it says yes, the file is not read.
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
        flip: bool = False,
        hash_files: bool = False,
        is_cached: Callable[[str], bool] | None = None,
        too_short: TooShort = "reject",
        windows: Windows = "one",
        repeat_frames: bool = False,
        allow_upscaling: bool = False,
    ) -> None:
        self.root, self.num_frames, self.fps = Path(root), num_frames, fps
        self.seed, self.random_start, self.flip = seed, random_start, flip
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
        """Reads one clip.

        Raises:
            IndexError: beyond the last clip.
            ClipChangedError: its file is not the one in the manifest.
            VideoReadError: its file cannot be read any more.
        """
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
        num_frames = 1 if draw.picture else self.num_frames
        times = sample_times(planned, num_frames, self.fps, position if self.random_start else 0.0)
        return SampledClip(planned.entry, times, planned.size, flipped)

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
        frames = np.stack([fit(frame, *clip.size) for frame in found])
        if clip.flipped:
            frames = frames[:, :, ::-1]
        return np.ascontiguousarray(rearrange(frames, "f h w c -> f c h w"))

    def buckets(self, pictures: bool = False) -> dict[Size, list[int]]:
        """The items of each size, which alone can share a batch."""
        found: dict[Size, list[int]] = {}
        for item, planned in enumerate(self.plan.pictures if pictures else self.plan.clips):
            found.setdefault(planned.size, []).append(item)
        return found


def _commonest(plan: ClipPlan) -> str:
    reasons = [unusable.reason for unusable in plan.unusable]
    if not reasons:
        return "all are single pictures; training of temporal layers needs videos"
    first = plan.unusable[0]
    return f"the first, {first.entry.path}, {first.reason}"
