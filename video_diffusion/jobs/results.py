"""`results.jsonl`: one row for each finished or failed job, appended whole by any number of processes."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from video_diffusion.settings import is_empty, parse_json

try:
    import fcntl
except ImportError:  # Windows: single appends are still written at once
    fcntl = None  # type: ignore[assignment]  # the absence of the module is its value there

FILE_NAME = "results.jsonl"


class _Measured(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    value: FiniteFloat | None
    status: str
    unit: str = ""


class _Row(BaseModel):
    """What is read of a row; rows of earlier versions lack some of it, and whatever else one holds stays."""

    model_config = ConfigDict(strict=True, extra="allow")

    job_id: str
    status: Literal["ok", "failed"]
    where: str = ""
    file: str = ""
    error: str = ""
    frames_sha256: str = ""
    seconds: FiniteFloat = 0.0
    settings: dict[str, Any] = {}
    metrics: dict[str, _Measured] = {}
    prompt_meter: dict[str, _Measured] = {}
    series: dict[str, list[FiniteFloat | None]] = {}
    num_frames: int = 0
    fps: FiniteFloat = 0.0
    width: int = 0
    height: int = 0
    flags: list[str] = []
    notes: list[str] = []


KEPT = ("job_id", "status", "file", "bytes", "frames_sha256", "file_frames_sha256")


class Results:
    """The rows of one output folder.

    A crash can leave a torn last line. Whoever writes next cuts it off, under a lock that everyone who
    writes holds; where the file system has no locks, the torn line is closed instead.

    Args:
        folder: it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row, whole and synced, or not at all.

        Raises:
            OSError: no space, no permission; the file is as it was.
        """
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with _locked(handle):
                end = cut_torn_line(handle)
                try:
                    rest = line[os.write(handle, line) :]
                    while rest:  # the disk, or a limit, took a part only; trying the rest tells which
                        rest = rest[os.write(handle, rest) :]
                    os.fsync(handle)
                except OSError as error:
                    with suppress(OSError):
                        os.ftruncate(handle, end)
                    raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from error
        finally:
            os.close(handle)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row in the order of writing; a torn last line is left out with a warning.

        Raises:
            ValueError: any other line that is not a row, with its number.
        """
        if not self.path.exists() or is_empty(self.path):
            return
        with self.path.open("rb") as file:
            broken = None
            for number, line in enumerate(file, start=1):
                if broken is not None:
                    raise ValueError(f"{self.path}:{broken}: not a result row; delete that line")
                row = _parse(line)
                if row is None:
                    broken = number
                else:
                    yield row
            if broken is not None:
                warnings.warn(f"{self.path}:{broken}: the last line is torn and is left out", stacklevel=2)

    def latest(self) -> dict[str, dict[str, Any]]:
        """The last row of each job id."""
        return {row["job_id"]: row for row in self.rows()}

    def finished(self) -> dict[str, list[dict[str, Any]]]:
        """For each job id whose last row says ok, what resuming needs of its rows; never empty lists.

        Two processes that made the same clip have left two rows, either of which can describe the file that
        is there: its frames are the same, its size need not be, since a record tells times.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows():
            if row["status"] == "ok":
                found.setdefault(row["job_id"], []).append({key: row[key] for key in KEPT if key in row})
            else:
                found.pop(row["job_id"], None)
        return found


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return _Row.model_validate(parse_json(line)).model_dump(exclude_unset=True)
    except ValueError:
        return None


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
    yield  # closing the file releases the lock


def cut_torn_line(handle: int) -> int:
    """Ends the file after its last whole line and returns that length."""
    end = os.fstat(handle).st_size
    keep = end
    while keep:
        start = max(0, keep - 65_536)
        block = os.pread(handle, keep - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep != end:
        os.ftruncate(handle, keep)
    return keep
