"""Everything about an output that can be found wrong before a model is loaded."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import click

from video_diffusion.cli.terminal import MachineError

MAX_NAME_BYTES = 220  # leaves room for the dot, the token, .part and .lock of the temporary name
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SPARE_BYTES = 4_000_000


@dataclass(frozen=True)
class EncodingFlags:
    """How a clip is to be written, as typed."""

    codec: str | None = None
    crf: int | None = None
    pixel_format: str | None = None


def check_clip_path(text: str, encoding: EncodingFlags, overwrite: bool) -> Path:
    """The path of a clip, if it can be written there."""
    from video_diffusion.settings.errors import FieldError
    from video_diffusion.video.files import slug
    from video_diffusion.video.record import sidecar_path
    from video_diffusion.video.writer import choose_encoding

    path = Path(text)
    is_folder = path.is_dir() and encoding.codec != "png" and not text.endswith("/")
    if is_folder or path.name in {"", ".", ".."}:
        raise click.UsageError(f"--out: {text} is a folder; name a file in it, such as {slug('clip')}.mp4")
    try:
        choose_encoding(text, encoding.codec, encoding.crf, encoding.pixel_format)
    except FieldError as error:
        raise click.UsageError(f"{error.flag}: {error}") from None
    check_place(path, "--out", overwrite)
    check_place(sidecar_path(path), "--out", overwrite)
    return path


def check_image_path(text: str | None, flag: str, overwrite: bool) -> Path | None:
    """The path of a picture beside the clip; None stays None."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise click.UsageError(f"{flag}: must end in {', '.join(IMAGE_SUFFIXES)} (given {text!r})")
    check_place(path, flag, overwrite)
    return path


def check_distinct(paths: Sequence[Path | None]) -> None:
    """Refuses two outputs at one path."""
    known = [path.absolute() for path in paths if path is not None]
    twice = next((path for path in known if known.count(path) > 1), None)
    if twice is not None:
        raise click.UsageError(f"{twice}: is the place of two outputs; give each its own name")


def existing_folder(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def check_place(path: Path, flag: str, overwrite: bool) -> None:
    """Whether a file of this name can come into being."""
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES or "\0" in str(path):
        raise click.UsageError(
            f"{flag}: the name must be at most {MAX_NAME_BYTES} bytes without NUL; shorten it"
        )
    parent = path.parent
    if not parent.is_dir():
        problem = "is not a folder" if os.path.lexists(parent) else "no such folder; make it first"
        shell = " (~ is expanded by the shell, outside quotes)" if str(path).startswith("~") else ""
        raise click.UsageError(f"{flag}: {parent}: {problem}{shell}")
    if _is_stdout(path):
        raise click.UsageError(
            f"{flag}: {path} is the file that stdout goes to; send stdout elsewhere, or name another output"
        )
    if os.path.lexists(path) and not overwrite:
        raise click.UsageError(f"{flag}: {path} exists; give --overwrite, or another name")
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(parent))
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


def check_clip_fits(
    path: Path, encoding: EncodingFlags, shape: tuple[int, int, int], fps: Fraction
) -> str | None:
    """Check that format, disk and memory have room for such a clip; return a note about the timing."""
    from video_diffusion.settings.errors import FieldError
    from video_diffusion.video.writer import check_clip, choose_encoding, timing_note

    num_frames, height, width = shape
    chosen = choose_encoding(
        f"{path}/" if encoding.codec == "png" else path, encoding.codec, encoding.crf, encoding.pixel_format
    )
    try:
        check_clip(chosen, width, height, fps, num_frames)
    except FieldError as error:
        raise click.UsageError(f"{error.flag}{str(error).removeprefix(error.field)}") from None
    raw = num_frames * width * height * 3
    needed = SPARE_BYTES + (raw if chosen.lossless else raw // 3)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"No space left on device ({needed} bytes needed, {free} free)", str(path)
        )
    available = available_memory()
    if (
        available is not None and available < 5 * raw
    ):  # float frames of a chunk aside: uint8 and one float copy
        size = f"{num_frames} frames of {width}x{height}"
        raise MachineError(
            f"--size: {size} need at least {5 * raw / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are free; make the clip smaller or shorter"
        )
    return timing_note(chosen, fps)


def size_of(text: str) -> tuple[int, int]:
    """Width and height of "64x48".

    Raises:
        click.UsageError: anything else.
    """
    from video_diffusion.settings import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise click.UsageError(f"--size: {error} (given {text!r})") from None


@contextmanager
def reserved_name(given: str | None, stem: str, suffix: str = ".mp4") -> Iterator[str]:
    """Hold a clip's name while it is made: the one given, else `stem.mp4`, `stem-2.mp4` and so on.

    A free name has neither a clip nor a record yet, and nobody else at work on it.

    Raises:
        click.UsageError: Somebody else is making a clip of the name given.
    """
    from video_diffusion.video.files import reserve
    from video_diffusion.video.record import sidecar_path

    names = [given] if given else (f"{stem}{f'-{n}' if n > 1 else ''}{suffix}" for n in count(1))
    for name in names:
        if not given and any(os.path.lexists(place) for place in (name, sidecar_path(Path(name)))):
            continue
        can_be = Path(name).name not in {"", ".", ".."} and Path(name).parent.is_dir()
        lock = reserve(Path(name)) if can_be else nullcontext()  # what cannot be is told later
        if lock is None:
            continue
        with lock:
            yield name
        return
    raise click.UsageError(f"--out: {given} is being made by another run; wait for it, or name another clip")


def _is_stdout(path: Path) -> bool:
    """Whether a file that is to be written is the one that the shell opened for stdout."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1)) and path.is_file()
    except OSError:
        return False


def available_memory() -> int | None:
    """Bytes that programs can still get, where the system tells (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(found.split()[1]) * 1024 if found else None


def check_folder(folder: Path) -> None:
    """Whether clips can come into a folder that may not exist yet; nothing is made."""
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out: {folder} is a file; many clips need a folder")
    if "\0" in str(folder):
        raise click.UsageError("--out: the name must be without NUL; rename it")
    existing = existing_folder(folder)
    check_place(existing / "results.jsonl", "--out", overwrite=True)
    rows = folder / "results.jsonl"
    if rows.exists() and not os.access(rows, os.R_OK | os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(rows))
