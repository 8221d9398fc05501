"""The folder of a training run: one process owns it, rows are appended to it, whole things appear in it."""

import errno
import json
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from video_diffusion.settings import check_regular, dump, parse_json
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.video import atomic_path, write_bytes

CONFIG_FILE, METRICS_FILE, LOCK_FILE, OWNER_FILE = "config.yaml", "metrics.jsonl", ".lock", ".owner"
CHECKPOINTS_FOLDER, VALIDATION_FOLDER = "checkpoints", "validation"

# What of a checkpoint is for use; `targets` writes them, `--motion-adapter RUN` and `loras` read them.
PUBLISHED = ("motion_adapter", "motion_lora", "domain_lora")

# What a file system without locks answers: Lustre and NFS mounted without them, some FUSE and CIFS mounts.
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

Row = dict[str, Any]


class _AsWritten(BaseModel):
    """What is read of a row; whatever else it holds stays."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Size(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    num_frames: int = Field(default=1, ge=1)
    height: int = Field(default=1, ge=1)
    width: int = Field(default=1, ge=1)
    fps: FiniteFloat = Field(default=1.0, gt=0)


class _Clip(_AsWritten):
    file: str
    prompt: str
    seed: int
    measures: dict[str, FiniteFloat | None]
    size: _Size = _Size()


class _Distance(_AsWritten):
    distance: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class _Validated(_AsWritten):
    held_out_loss: FiniteFloat | None
    quartiles: list[FiniteFloat]
    measures: dict[str, FiniteFloat | None]
    clips: list[_Clip]
    losses: dict[str, FiniteFloat] = {}
    error: str = ""
    motion_distance: _Distance | None = None


class _Logged(_AsWritten):
    step: int = Field(ge=0)
    loss: FiniteFloat | None = None
    validation: _Validated = None  # type: ignore[assignment]  # may be absent, but not null
    allowed: list[str] = []


class RunInUseError(ValueError):
    """Another process trains in this folder; the message names it."""


class RunFolder:
    """Where a run keeps what it has: settings, measures, checkpoints, clips.

    Args:
        folder: Made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / CHECKPOINTS_FOLDER
        self.validation = folder / VALIDATION_FOLDER
        self.metrics = folder / METRICS_FILE

    def write_config(self, settings: TrainingSettings) -> None:
        """Keep the settings, so that the run can be repeated or continued from its folder alone."""
        write_bytes(self.folder / CONFIG_FILE, dump(settings).encode())

    def rows(self) -> list[Row]:
        """What was logged so far; a last line that a kill tore is left out, damaged ones likewise."""
        return [row for _, row in self._lines() if row is not None]

    def damaged_lines(self) -> list[int]:
        """Numbers of the lines that cannot be read, without the last one where a kill tore it."""
        return [
            number
            for number, (text, row) in enumerate(self._lines(), start=1)
            if row is None and text.endswith("\n")
        ]

    def append(self, row: Row) -> None:
        """Log a row; NaN and infinity must have become None before."""
        if self.metrics.exists():
            check_regular(self.metrics)
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps that are going to be repeated; which of them broke stays known."""
        kept = [
            text
            for text, row in self._lines()
            if (text.endswith("\n") if row is None else row["step"] <= step or "not_finite" in row)
        ]
        write_bytes(self.metrics, "".join(kept).encode("utf-8", "surrogateescape"))

    def _lines(self) -> Iterator[tuple[str, Row | None]]:
        """Each line of the log as it stands, and its row; None where it is none."""
        if not self.metrics.is_file():
            return
        with self.metrics.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for text in lines:
                row = None
                if text.endswith(("\n", "}")):
                    with suppress(ValueError):
                        row = _Logged.model_validate(parse_json(text)).model_dump(exclude_unset=True)
                yield text if text.endswith("\n") or row is None else f"{text}\n", row

    def publish(self, checkpoint: Path) -> None:
        """Copy a checkpoint's weights for use to the run itself, each folder whole or as before."""
        for name in PUBLISHED:
            source = checkpoint / name
            if source.is_dir():
                with atomic_path(self.folder / name) as part:
                    shutil.copytree(source, part)


@contextmanager
def owned(folder: Path) -> Iterator[RunFolder]:
    """Make the folder of a run this process's own inside the block; the system frees it if the process dies.

    A folder that was made for a run which was then refused is taken away again. Where the file system knows
    no locks, a warning says that nothing keeps a second run out.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / LOCK_FILE, timeout=0, fallback_to_soft=False), folder / OWNER_FILE
    try:
        lock.acquire()
    except Timeout:
        name = owner.read_text(encoding="utf-8", errors="replace")[:200].strip() if owner.is_file() else ""
        raise RunInUseError(
            f"{folder}: {name or 'another process'} trains in this folder; wait for it, stop it, or name "
            "another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        warnings.warn(
            f"{folder}: this file system knows no locks, so nothing keeps a second run out of the folder; "
            "see that only one trains there",
            stacklevel=3,
        )
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield RunFolder(folder)
    except Exception:
        if is_new and {file.name for file in folder.iterdir()} <= {LOCK_FILE, OWNER_FILE, CONFIG_FILE}:
            (folder / CONFIG_FILE).unlink(missing_ok=True)
        raise
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
        if is_new and {file.name for file in folder.iterdir()} <= {LOCK_FILE}:
            shutil.rmtree(folder, ignore_errors=True)
