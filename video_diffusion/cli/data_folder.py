"""A folder of procedural clips: begun once with its settings, filled clip by clip, listed at the end."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.output_checks import check_place, existing_folder

if TYPE_CHECKING:
    from video_diffusion.procedural import Scene, World

SETTINGS_FILE, ROWS_FILE = "dataset.json", "metadata.jsonl"
BATCH = 8  # clips painted at once; a clip does not depend on it


@dataclass(frozen=True)
class DatasetSettings:
    """What decides every clip of a folder; clip i depends on these and on i alone."""

    seed: int
    num_frames: int
    height: int
    width: int
    fps: str
    crf: int
    caption_omit: float
    held_out: bool
    world: dict[str, Any]


def open_folder(folder: Path, settings: DatasetSettings) -> None:
    """Makes the folder, or checks that it was begun with the same settings.

    Raises:
        click.UsageError: it holds something else; the difference is named.
        OSError: no permission, no space.
    """
    from video_diffusion.io import write_bytes

    check_place(existing_folder(folder) / folder.name, "FOLDER", overwrite=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise click.UsageError(f"FOLDER: {folder}, or a folder above it, is a file; name another") from None
    file, own = folder / SETTINGS_FILE, asdict(settings)
    own |= own.pop("world")
    if not file.exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise click.UsageError(f"FOLDER: {folder} holds other files; name a new or empty folder")
        write_bytes(file, (json.dumps(own, indent=2) + "\n").encode())
        return
    try:
        there = json.loads(file.read_text())
        differing = [name for name in own if json.loads(json.dumps(own[name])) != there[name]]
    except (ValueError, KeyError, TypeError):
        raise click.UsageError(f"FOLDER: {file} is damaged; name a new folder") from None
    if differing:
        name = differing[0]
        raise click.UsageError(
            f"FOLDER: {folder} was begun with {name} {there[name]}, now it is {own[name]}; name a new folder"
        )


def write_clips(folder: Path, settings: DatasetSettings, world: "World", num_clips: int) -> Iterator[bool]:
    """Writes what is missing, then the rows of all; yields for each clip whether it was new.

    Raises:
        OSError: no space, no permission; what is finished stays.
    """
    from fractions import Fraction

    from video_diffusion.io import atomic_path, write_bytes, write_video
    from video_diffusion.procedural import render_scenes
    from video_diffusion.shapes import to_uint8

    for start in range(0, num_clips, BATCH):
        indices = range(start, min(start + BATCH, num_clips))
        missing = [index for index in indices if not _is_whole(folder, index)]
        truths = [clip_truth(settings, world, index) for index in missing]
        if missing:
            clips = render_scenes(
                [scene for scene, _, _ in truths],
                [seed for _, _, seed in truths],
                settings.num_frames,
                settings.height,
                settings.width,
            )
            for index, frames, (_, text, _) in zip(missing, clips, truths, strict=True):
                stem = folder / f"{index:06d}"
                write_bytes(stem.with_suffix(".txt"), f"{text}\n".encode())
                write_video(
                    stem.with_suffix(".mp4"), to_uint8(frames), Fraction(settings.fps), crf=settings.crf
                )
        yield from (index in missing for index in indices)
    with atomic_path(folder / ROWS_FILE) as part, part.open("w", encoding="utf-8") as rows:
        for index in range(num_clips):
            scene, text, seed = clip_truth(settings, world, index)
            row = {"file_name": f"{index:06d}.mp4", "caption": text, "seed": seed, **asdict(scene)}
            rows.write(json.dumps(row) + "\n")


def clip_truth(settings: DatasetSettings, world: "World", index: int) -> tuple["Scene", str, int]:
    """Scene, caption and seed of clip `index`, whatever was made before it."""
    import numpy as np

    from video_diffusion.procedural import caption

    rng = np.random.default_rng([settings.seed, index])
    scene = world.sample(rng, settings.held_out)
    return scene, caption(scene, rng, omit=settings.caption_omit), int(rng.integers(2**63))


def _is_whole(folder: Path, index: int) -> bool:
    """The clip comes last, so where it stands its caption does too."""
    return (folder / f"{index:06d}.mp4").is_file()
