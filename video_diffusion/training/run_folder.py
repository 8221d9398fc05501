"""The folder of a training run: one process owns it, rows are appended to it, whole things appear in it."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from video_diffusion.settings import dump
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.video import atomic_path, write_bytes

CONFIG_FILE, METRICS_FILE, LOCK_FILE = "config.yaml", "metrics.jsonl", ".lock"
CHECKPOINTS_FOLDER, VALIDATION_FOLDER = "checkpoints", "validation"

# What of a checkpoint is for use; `targets` writes them, `--motion-adapter RUN` and `loras` read them.
PUBLISHED = ("motion_adapter", "motion_lora", "domain_lora")

Row = dict[str, Any]


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
        """What was logged so far; a last line that a kill tore is left out."""
        if not self.metrics.is_file():
            return []
        found = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                found.append(row)
        return found

    def append(self, row: Row) -> None:
        """Log a row; NaN and infinity must have become None before."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps that are going to be repeated."""
        kept = [row for row in self.rows() if row["step"] <= step]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        write_bytes(self.metrics, text.encode())

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

    A folder that was made for a run which then wrote nothing is taken away again.
    """
    import fcntl  # noqa: PLC0415  a Unix module: without it everything but training still works

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read(200).strip() or "another process"
            raise RunInUseError(
                f"{folder}: {owner} trains in this folder; wait for it, stop it, or name another folder"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        try:
            yield RunFolder(folder)
        finally:
            if is_new and [file.name for file in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
