"""Files that a clip starts from, named by their content: a job's id must not depend on where they lie."""

import hashlib
from pathlib import Path


def content_sha256(path: str) -> str | None:
    """SHA-256 of a file, or of names and contents of a folder's files; None if it cannot be read."""
    place = Path(path).expanduser()
    try:
        if place.is_file():
            return _file_sha256(place)
        files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
        lines = "".join(f"{file.name} {_file_sha256(file)}\n" for file in files)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    except (OSError, ValueError):
        return None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
