"""Files that are either whole or absent: written beside their final name, synced, verified, then renamed."""

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = re.compile(r"(?P<part>\..+\.(making|[0-9a-f]{16}(\.old)?\.part))\.lock", re.DOTALL)
_OLD = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.old\.part", re.DOTALL)
# A file system without these is none to refuse work for: FAT, CIFS, NFS, Lustre.
_NO_LOCKS = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
_NO_SUCH_NICETY = {*_NO_LOCKS, errno.EPERM, errno.EACCES}
MAX_PART_NAME = 200  # bytes, of 255
_EXCHANGE, _AT_FDCWD = 2, -100  # RENAME_EXCHANGE of renameat2, Linux


@contextmanager
def atomic_path(
    path: Path | str, verify: Callable[[Path], None] | None = None, overwrite: bool = True
) -> Iterator[Path]:
    """Yield `.<name>.<token>.part` in the same directory; at the end that becomes `path`.

    The caller writes a file, or makes a folder, at the yielded path. It is then synced to disk, passed to
    `verify` (which raises to refuse it) and renamed. On any exception, Ctrl-C included, nothing is left
    behind; after a `kill -9` the part stays until the next write to that directory removes it: a lock beside
    it tells, on any machine and in any container, whether somebody is still at work.

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
        with _locked(part):
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
        try:
            _remove(part)
        except BaseException:  # Ctrl-C amid it
            _remove(part)
            raise


def write_bytes(path: Path | str, data: bytes, overwrite: bool = True) -> None:
    """Write a whole file atomically.

    Raises:
        OSError: as `atomic_path`.
    """
    with atomic_path(path, overwrite=overwrite) as part:
        part.write_bytes(data)


def part_path(path: Path) -> Path:
    """Where something is written that becomes `path`; no two calls give the same."""
    return path.with_name(f".{_fitting(path.name)}.{secrets.token_hex(8)}.part")


def _fitting(name: str) -> str:
    """The name, or its beginning and a hash where what is added would make it longer than names can be."""
    data = os.fsencode(name)
    if len(data) <= MAX_PART_NAME:
        return name
    kept = data[: MAX_PART_NAME - 16].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(data).hexdigest()[:12]}"


@contextmanager
def _holding(lock: FileLock) -> Iterator[None]:
    """Give a lock back at the end, and its file with it."""
    try:
        yield
    finally:
        try:
            _free(lock)
        except BaseException:  # Ctrl-C amid it
            _free(lock)
            raise


def _free(lock: FileLock) -> None:
    lock.release()
    _remove(Path(lock.lock_file))


def reserve(path: Path) -> AbstractContextManager[None] | None:
    """Lock a name for an output that is still to be made, to be held by a `with` block.

    Returns:
        None if somebody else holds it; where a file system has no locks, nobody does.
    """
    place = path.with_name(f".{_fitting(path.name)}.making.lock")
    lock, is_new = FileLock(place), not os.path.lexists(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except (NotImplementedError, OSError):
        return nullcontext()
    except BaseException:  # Ctrl-C
        if is_new:
            _remove(place)
        raise
    return _holding(lock)


def remove_dead_parts(directory: Path) -> list[Path]:
    """Remove the parts that nobody writes any more, and return them; put back what a replacement left aside.

    Only what carries a lock that is free: a part of somebody at work, here or on another machine, is locked,
    and a file of the user's that looks like a part has no lock.
    """
    removed = []
    for entry in list(os.scandir(directory)):
        found = _LOCK.fullmatch(entry.name)
        if found is None:
            continue
        part, lock = directory / found["part"], FileLock(entry.path)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError, NotImplementedError):
            continue
        with _holding(lock):
            old = _OLD.fullmatch(part.name)
            if old is not None and os.path.lexists(part) and not os.path.lexists(directory / old["name"]):
                part.replace(directory / old["name"])
            elif os.path.lexists(part):
                _remove(part)
                removed.append(part)
    return removed


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold the lock that says that somebody is at work on a part."""
    lock = FileLock(part.with_name(f"{part.name}.lock"))
    with _holding(lock):
        try:
            lock.acquire(blocking=False)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            where = part.parent
            _say_once(f"{where}: the file system has no locks; what a killed run leaves is not cleaned up")
        yield


def _system_error(error: Exception, part: Path) -> int | None:
    """Number of the system's error that kept a part from being written; safetensors tells it in words."""
    if isinstance(error, OSError):
        ours = {None, str(part), part, f"{part}.lock"}
        return error.errno if error.filename in ours else None
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
    """Rename; a folder at `path` changes places with the part, so that one of them always stands."""
    if not (path.is_dir() and not path.is_symlink()):
        part.replace(path)
        return
    if _exchanged(part, path):
        return  # the old folder is the part now, and goes with it
    old = part_path(path).with_suffix(".old.part")
    with _locked(old):  # killed in between, the next write to the directory puts it back
        path.replace(old)
        try:
            part.replace(path)
        except OSError:
            old.replace(path)
            raise
        _remove(old)


def _exchanged(part: Path, path: Path) -> bool:
    """Swap two names in one step where the system can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return int(rename(_AT_FDCWD, os.fsencode(part), _AT_FDCWD, os.fsencode(path), _EXCHANGE)) == 0


def _sync(path: Path) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for child in path.iterdir():
            _sync(child)
    elif stat.S_ISREG(mode):  # safetensors makes files that nobody but their owner may read
        with _nicety(path, "its permissions cannot be set"):
            path.chmod(stat.S_IMODE(mode) | _usual_mode())
    _sync_one(path)


def _sync_one(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with _nicety(path, "it cannot be synced to disk"):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _nicety(path: Path, what: str) -> Iterator[None]:
    """Go on, with one warning, where a file system refuses what nothing depends on."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SUCH_NICETY:
            raise
        _say_once(f"{path.parent}: {what} on this file system ({error.strerror}); going on without")


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, stacklevel=4)


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


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal: those that begin here never see it, and show no traceback.

    The one that began them sees it at the end of the block, and ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
