"""What would go wrong for a whole job file, found before a model is loaded: folder, disk, models, devices."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.clip_run import check_codec, check_inputs
from video_diffusion.cli.output_checks import EncodingFlags, check_clip_fits, check_place, existing_folder

if TYPE_CHECKING:
    from video_diffusion.jobs import JobSummary

RECORD_BYTES = 20_000
SIZE_FIELDS = ("num_frames", "height", "width", "fps")


def suffix_of(encoding: EncodingFlags) -> str:
    """What the clips end in.

    Raises:
        click.UsageError: a codec, quality or pixel format that does not exist, or a folder of PNGs.
    """
    from video_diffusion.io.video_formats import CODECS, choose_encoding

    if encoding.codec == "png":
        raise click.UsageError(
            "--codec: png makes a folder of each clip; with --jobs take libx264rgb, which is lossless too"
        )
    known = CODECS.get(encoding.codec or "")
    suffix = known.suffixes[0] if known is not None else ".mp4"
    try:
        choose_encoding(f"clip{suffix}", encoding.codec, encoding.crf, encoding.pixel_format)
    except ValueError as error:
        flag = str(error).split(" ", 1)[0].replace("_", "-")
        raise click.UsageError(f"--{flag}: {error}") from None
    return suffix


def check_folder(folder: Path) -> None:
    """Whether clips can come into a folder that may not exist yet; nothing is made.

    Raises:
        click.UsageError: it is a file, or its name cannot be.
        OSError: no permission, read-only file system.
    """
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out: {folder} is a file; with --jobs it must be a folder")
    if "\0" in str(folder):
        raise click.UsageError("--out: the name must be without NUL; rename it")
    existing = existing_folder(folder)
    check_place(existing / "results.jsonl", "--out", overwrite=True)
    rows = folder / "results.jsonl"
    if rows.exists() and not os.access(rows, os.R_OK | os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(rows))


def check_machine(summary: "JobSummary", folder: Path, encoding: EncodingFlags, suffix: str) -> list[str]:
    """Whether every model and device is there, and every size can be encoded and stored; nothing is loaded.

    Returns:
        Notes for the user, each once.

    Raises:
        ModelLoadError, DeviceError, MachineError, ValueError, click.UsageError, OSError: the first thing
            wrong, with the first row that asks for it.
    """
    from video_diffusion.jobs import model_facts
    from video_diffusion.loading import check_quantize, choose_device

    for where, settings in summary.inputs.values():
        with _told_with(where):
            check_inputs(settings)
    place = existing_folder(folder) / f"clip{suffix}"
    check_codec(place, encoding)
    defaults: dict[tuple[str, str | None], Mapping[str, Any]] = {}
    for model, where in summary.models.items():
        with _told_with(where):
            defaults[model] = model_facts(*model).defaults
    for device, where in summary.devices.items():
        with _told_with(where):
            choose_device(device)
    for name, where in summary.quantize.items():
        with _told_with(where):
            check_quantize(name)
    notes: set[str] = set()
    needed = 0
    for (model_name, adapter, *given), (where, count) in summary.shapes.items():
        filled: dict[str, Any] = {
            name: defaults[model_name, adapter].get(name) if value is None else value
            for name, value in zip(SIZE_FIELDS, given, strict=True)
        }
        if None in filled.values():
            continue  # such a model tells its size only when it is loaded
        shape = (filled["num_frames"], filled["height"], filled["width"])
        with _told_with(where):
            note = check_clip_fits(place, encoding, shape, Fraction(filled["fps"]))
        needed += count * clip_bytes(*shape)
        notes |= {note} if note else set()
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        notes.add(f"these clips take up to {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free")
    return sorted(notes)


def clip_bytes(num_frames: int, height: int, width: int) -> int:
    """What a clip, its record and its row take on disk, at most: noise takes a third of the raw frames."""
    return num_frames * height * width + RECORD_BYTES


@contextmanager
def _told_with(where: str) -> Iterator[None]:
    """Puts the row before the message of what goes wrong inside."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(f"{where}: {error.message}") from None
    except OSError:
        raise
    except (ValueError, RuntimeError) as error:
        raise type(error)(f"{where}: {error}") from error
