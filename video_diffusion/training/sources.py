"""From the folders of the settings to clips for training and clips held out from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from video_diffusion.training.clip_mix import Clips, Weighted
from video_diffusion.training.data import ClipDataset, ClipEntry, manifest_sha256, read_manifest
from video_diffusion.training.data.clip_plan import aspect_buckets
from video_diffusion.training.data.held_out import held_out_ids
from video_diffusion.training.settings import ClipSettings, TrainingSettings

REJECTS_FILE = "rejects.jsonl"


@dataclass(frozen=True)
class Sources:
    """The clips of a run.

    Attributes:
        training: Sources with their weights.
        held_out: Clips that training never sees, one entry for each folder that has some.
        hashes: For each folder, numbered in order, the hash of what training sees of it and its weight.
        num_clips: For each folder by name, clips of an epoch.
        num_held_out: For each folder, clips kept from training.
        unused: One line for each folder some of whose clips cannot be used: how many, and why the first.
        captions: Of all clips in all folders.
    """

    training: tuple[Weighted, ...]
    held_out: tuple[Clips, ...]
    hashes: Mapping[str, str]
    num_clips: Mapping[str, int]
    num_held_out: tuple[int, ...]
    unused: tuple[str, ...]
    captions: tuple[str, ...]


def open_sources(
    settings: TrainingSettings,
    defaults: Mapping[str, Any],
    is_cached: Callable[[str], bool] | None = None,
) -> Sources:
    """Read the manifests of all folders and plan their clips; no video is opened.

    Args:
        settings: Of the run.
        defaults: The model's own size, length and rate.
        is_cached: Whether the latents of a clip, by its key, need no frames to be read.

    Raises:
        ManifestError: A folder without a manifest, or a damaged one.
        ValueError: A folder none of whose clips can be used.
    """
    training, held_out, num_held_out = list[Weighted](), list[Clips](), list[int]()
    unused, captions = list[str](), list[str]()
    hashes, counts = dict[str, str](), dict[str, int]()
    for number, source in enumerate(settings.data):
        entries = read_manifest(source.path)
        captions += [entry.caption for entry in entries]
        root = Path(source.path)
        clips = _dataset(entries, root, settings, defaults, is_cached=is_cached)
        unused += _unused(root, clips)
        apart = held_out_ids(clips.plan, settings.clips.held_out)
        if apart:
            rest = [entry for entry in entries if entry.id not in apart]
            clips = _dataset(rest, root, settings, defaults, is_cached=is_cached)
            those = [entry for entry in entries if entry.id in apart]
            held_out.append(_dataset(those, root, settings, defaults, held_out=True))
        training.append(Weighted(clips, source.weight))
        num_held_out.append(len(apart))
        hashes[f"folder_{number}"] = f"{manifest_sha256(entries)}, weight {source.weight:g}"
        counts[f"{source.path}"] = len(clips)
    return Sources(
        tuple(training), tuple(held_out), hashes, counts, tuple(num_held_out), tuple(unused), tuple(captions)
    )


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
        flip=clips.flip and not held_out,
        is_cached=is_cached,
        too_short=clips.too_short,
        windows=clips.windows,
        repeat_frames=clips.repeat_frames,
        allow_upscaling=clips.allow_upscaling,
    )
