"""Whether a clip's file is still the one that was checked."""

import hashlib
import os
from pathlib import Path

from video_diffusion.training.data.manifest import ClipEntry


class ClipChangedError(ValueError):
    """A file is gone or not the one in the manifest; the message is one line with it and the way out."""

    def __init__(self, message: str) -> None:
        if message.startswith("Caught "):  # a DataLoader makes it again, of the whole traceback of its worker
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(entry: ClipEntry, root: Path, hash_always: bool = False) -> None:
    """Compares a file with its row: size and time of change; where only the time differs, its bytes.

    So a folder that was copied without its times costs one hash a file and passes, and an edited file never
    does, unless both its size and its time were put back (then only `hash_always` sees it).

    Args:
        entry: the row.
        root: the folder of the manifest.
        hash_always: reads every byte of the file whatever its time says.

    Raises:
        ClipChangedError: no such file, or another one.
    """
    path = root / entry.path
    again = f"run `video-diffusion data check {root}` again"
    try:
        found = path.stat()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ClipChangedError(f"{path}: {why}, but the manifest lists it; {again}") from None
    if found.st_size != entry.num_bytes:
        raise ClipChangedError(
            f"{path}: has {found.st_size} bytes, the manifest says {entry.num_bytes}: it was changed; {again}"
        )
    if (hash_always or found.st_mtime_ns != entry.mtime_ns) and file_sha256(path) != entry.sha256:
        raise ClipChangedError(f"{path}: its sha256 differs from the manifest's: it was changed; {again}")
