"""Files that are either whole or absent: written beside their final name, synced, verified, then renamed."""

import hashlib
import os
import platform
import re
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PART = re.compile(r"\..+\.((?P<machine>[0-9a-f]{8})-)?(?P<pid>[0-9]{1,10})\.part", re.DOTALL)


@contextmanager
def atomic_path(
    path: Path | str, verify: Callable[[Path], None] | None = None, overwrite: bool = True
) -> Iterator[Path]:
    """Yields `.<name>.<machine>-<pid>.part` in the same directory; at the end that becomes `path`.

    The caller writes a file, or makes a folder, at the yielded path. It is then synced to disk, passed to
    `verify` (which raises to refuse it) and renamed. On any exception, Ctrl-C included, nothing is left
    behind; after a `kill -9` the part stays until the next write to that directory removes it.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        OSError: no directory, no permission, no space; its filename is `path`.
    """
    path = Path(path)
    part = part_path(path)
    if not overwrite:
        _refuse_existing(path)
    try:
        remove_dead_parts(path.parent)
        yield part
        _sync(part)
        if verify is not None:
            verify(part)
        if not overwrite:
            _refuse_existing(path)
        _replace(part, path)
        _sync_one(path.parent)
    except Exception as error:
        number = _system_error(error, part)
        if number is not None:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        _remove(part)


def write_bytes(path: Path | str, data: bytes, overwrite: bool = True) -> None:
    """Writes a whole file atomically.

    Raises:
        OSError: as `atomic_path`.
    """
    with atomic_path(path, overwrite=overwrite) as part:
        part.write_bytes(data)


def part_path(path: Path, mark: str = "") -> Path:
    """Where this process writes what becomes `path`; `mark` tells two of its parts apart."""
    return path.with_name(f".{path.name}{mark}.{_machine()}-{os.getpid()}.part")


def remove_dead_parts(directory: Path) -> list[Path]:
    """Removes the part files that processes no longer running left in a directory, and returns them.

    Only those of this machine: several may share a folder, and none sees the processes of another.
    """
    removed = []
    for entry in os.scandir(directory):
        found = _PART.fullmatch(entry.name)
        if found and found["machine"] in {None, _machine()} and not _alive(int(found["pid"])):
            _remove(Path(entry.path))
            removed.append(Path(entry.path))
    return removed


@cache
def _machine() -> str:
    """Eight hex digits that stand for this machine's name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _system_error(error: Exception, part: Path) -> int | None:
    """Number of the system's error that kept a part from being written; safetensors tells it in words."""
    if isinstance(error, OSError):
        return error.errno if error.filename in {None, str(part), part} else None
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(told[1]) if told else None


@cache
def _usual_mode() -> int:
    """Permissions that a new file has by the process's umask."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; overwrite it explicitly or choose another name")


def _replace(part: Path, path: Path) -> None:
    """Renames; a folder that stands at `path` is moved aside first, since folders cannot be replaced."""
    if not (path.is_dir() and not path.is_symlink()):
        part.replace(path)
        return
    old = part_path(path, ".old")
    path.replace(old)
    try:
        part.replace(path)
    except OSError:
        old.replace(path)
        raise
    _remove(old)


def _sync(path: Path) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for child in path.iterdir():
            _sync(child)
    elif stat.S_ISREG(mode):  # safetensors makes files that nobody but their owner may read
        path.chmod(stat.S_IMODE(mode) | _usual_mode())
    _sync_one(path)


def _sync_one(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


# File names made from prompts: safe on every system, short, and still readable.


MAX_BYTES = 80
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def slug(text: str, max_bytes: int = MAX_BYTES) -> str:
    """A file name stem from any text.

    Letters and digits of every script stay (NFC, lower case); all else becomes single hyphens. At most
    `max_bytes` of UTF-8, cut between characters; never empty, never with a leading or trailing sign, never a
    device name of Windows.
    """
    normal = unicodedata.normalize("NFC", text).lower()
    kept = "".join(sign if _is_word(sign) else " " for sign in normal)
    name = "-".join(kept.split())
    while len(name.encode()) > max_bytes:
        name = name[:-1]
    name = name.strip("-")
    if not name or _starts_with_mark(name):
        name = f"clip-{name}"[:max_bytes].strip("-")
    return f"clip-{name}"[:max_bytes] if name in _RESERVED else name


def _is_word(sign: str) -> bool:
    """Letters, digits and the marks that belong to letters."""
    return unicodedata.category(sign)[0] in "LNM"


def _starts_with_mark(name: str) -> bool:
    """A combining mark alone would attach itself to whatever stands before the name."""
    return unicodedata.category(name[0])[0] == "M"
