"""The manifest of a checked folder, and whether a clip's file is still the one that was checked."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from video_diffusion.settings import is_empty, parse_json, shown
from video_diffusion.training.data.shards import clip_file
from video_diffusion.video import atomic_path

MANIFEST_FILE = "manifest.jsonl"
_MAX_LINE_BYTES = 1_000_000


class ManifestError(ValueError):
    """A manifest that is missing or damaged; the message is one line that says how to make it anew."""


@dataclass(frozen=True)
class ClipEntry:
    """One captioned clip: a file, or a stretch of one.

    Attributes:
        id: unique in its folder.
        path: of the file, relative to the folder, with "/" on every system; in a shard, as `shards` has it.
        sha256: of the whole file, or the clip's part of its shard.
        num_frames: as decoded, between `start` and `end`.
        fps: the average rate of its real timestamps; None for a single picture.
        width, height: upright, in pixels.
        caption: as its source has it, without white space around it; empty where the check allowed that.
        start, end: seconds of the file; frames with start <= time < end belong to the clip.
        num_bytes, mtime_ns: of the file when it was checked; see `check_unchanged`.
    """

    id: str
    path: str
    sha256: str
    num_frames: int
    fps: Fraction | None
    width: int
    height: int
    caption: str
    start: float
    end: float
    num_bytes: int
    mtime_ns: int

    @property
    def is_picture(self) -> bool:
        """Whether it is a single picture, which training uses as a clip of one frame."""
        return self.fps is None


def read_manifest(folder: Path | str) -> list[ClipEntry]:
    """The clips of a folder in the order of its manifest (or of the manifest file itself).

    Raises:
        ManifestError: no manifest, or a row that is not one; the line says which, and how to make it anew.
    """
    folder = Path(folder)
    file = folder / MANIFEST_FILE if folder.is_dir() else folder
    if not folder.exists():
        raise ManifestError(f"{folder}: no such folder; name a folder of clips")
    if file.is_file() and is_empty(file):
        raise ManifestError(f"{file}: holds no clip; see rejects.jsonl beside it for the reasons")
    if not file.is_file():
        raise ManifestError(f"{file}: no such file; run `video-diffusion data check {folder}` first")
    entries: list[ClipEntry] = []
    seen: dict[str, int] = {}
    with file.open("rb") as rows:
        for number, line in enumerate(rows, start=1):
            try:
                entry = _entry(line)
            except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
                why = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
                raise ManifestError(
                    f"{file}:{number}: not a row of a manifest ({why}); run `data check` again"
                ) from None
            if entry.id in seen:
                raise ManifestError(
                    f"{file}:{number}: id {shown(entry.id)} stands in line {seen[entry.id]} too; "
                    "run `data check` again"
                )
            seen[entry.id] = number
            entries.append(entry)
    if not entries:
        raise ManifestError(f"{file}: holds no clip; see rejects.jsonl beside it for the reasons")
    return entries


def write_manifest(folder: Path | str, entries: Iterable[ClipEntry]) -> Path:
    """Writes the manifest of a folder, whole or not at all, and returns its path.

    Raises:
        OSError: no space, no permission; an earlier manifest is as it was.
    """
    file = Path(folder) / MANIFEST_FILE
    with atomic_path(file) as part, part.open("w", encoding="utf-8", newline="\n") as rows:
        for entry in entries:
            rows.write(json.dumps(_row(entry), ensure_ascii=False, allow_nan=False) + "\n")
    return file


def manifest_sha256(entries: Iterable[ClipEntry]) -> str:
    """One hash of what training sees: ids, contents, captions and cuts in their order; not of file times."""
    digest = hashlib.sha256()
    for entry in entries:
        row = _row(entry)
        del row["mtime_ns"]
        digest.update(json.dumps(row, sort_keys=True, allow_nan=False).encode() + b"\n")
    return digest.hexdigest()


def _row(entry: ClipEntry) -> dict[str, Any]:
    return {**vars(entry), "fps": None if entry.fps is None else str(entry.fps)}


def _entry(line: bytes) -> ClipEntry:
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")
    row = parse_json(line)
    if not isinstance(row, dict):
        raise TypeError("no object")
    entry = ClipEntry(
        id=_text(row, "id"),
        path=_relative(_text(row, "path")),
        sha256=_text(row, "sha256"),
        num_frames=_count(row, "num_frames", least=1),
        fps=None if row["fps"] is None else Fraction(_text(row, "fps")),
        width=_count(row, "width", least=1),
        height=_count(row, "height", least=1),
        caption=_text(row, "caption", may_be_empty=True),
        start=_seconds(row, "start"),
        end=_seconds(row, "end"),
        num_bytes=_count(row, "num_bytes", least=1),
        mtime_ns=_count(row, "mtime_ns", least=-(2**63)),
    )
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    if entry.fps is not None and entry.fps <= 0:
        raise ValueError(f"fps must be above 0 (given {entry.fps})")
    if not 0 <= entry.start < entry.end:
        raise ValueError(f"end must come after start (given {entry.start} and {entry.end})")
    return entry


def _text(row: dict[str, Any], name: str, may_be_empty: bool = False) -> str:
    value = row[name]
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{name} must be a text (given {shown(value)})")
    value.encode()  # a lone surrogate is no text
    return value


def _count(row: dict[str, Any], name: str, least: int) -> int:
    value = row[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} (given {shown(value)})")
    return value


def _seconds(row: dict[str, Any], name: str) -> float:
    value = row[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number of seconds (given {shown(value)})")
    return float(value)


def _relative(path: str) -> str:
    """The path, if it stays inside its folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path or parts == PurePosixPath():
        raise ValueError(f"path must stay inside its folder (given {shown(path)})")
    return path


# Whether a clip's file is still the one that was checked.


class ClipChangedError(ValueError):
    """A file is gone or not the one in the manifest; the message is one line with it and the way out."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        if message.startswith("Caught "):  # a DataLoader makes it again, of the whole traceback of its worker
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


def check_unchanged(entry: ClipEntry, root: Path, hash_always: bool = False) -> None:
    """Compares a file with its row: size and time of change; where only the time differs, its bytes.

    So a folder that was copied without its times costs one hash a file and passes, and an edited file never
    does, unless both its size and its time were put back (then only `hash_always` sees it).
    """
    path = root / entry.path
    clip = clip_file(path)
    again = f"run `video-diffusion data check {root}` again"
    try:
        num_bytes, mtime_ns = clip.facts()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ClipChangedError(f"{path}: {why}, but the manifest lists it; {again}") from None
    if num_bytes is not None and num_bytes != entry.num_bytes:
        raise ClipChangedError(
            f"{path}: has {num_bytes} bytes, the manifest says {entry.num_bytes}: it was changed; {again}"
        )
    if (hash_always or mtime_ns != entry.mtime_ns) and clip.sha256() != entry.sha256:
        raise ClipChangedError(f"{path}: its sha256 differs from the manifest's: it was changed; {again}")
