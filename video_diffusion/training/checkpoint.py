"""Checkpoints: folders that are whole or absent, safetensors only, verified by the hashes they carry."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_diffusion.io import atomic_path

MANIFEST = "manifest.json"


def save_checkpoint(
    run: Path,
    step: int,
    groups: dict[str, dict[str, Tensor]],
    facts: dict[str, Any],
    keep: int | None = 2,
    write_more: Callable[[Path], None] | None = None,
) -> Path:
    """Write `run/step-00000123`: a safetensors file per group, the manifest with their sha256, then rename.

    Args:
        run: The run's folder, made when missing.
        step: Steps finished.
        groups: File stem to tensors, for example model, ema, optimizer.
        facts: JSON values to find again on resume (settings, counters).
        keep: Older checkpoints beyond this many are removed, only after the new one verifies; None keeps all.
        write_more: Puts further files into the folder, which the manifest then lists too.

    Raises:
        OSError: No space, no permission, or a disk that does not give back what was written; earlier
            checkpoints are as they were.
    """
    run.mkdir(parents=True, exist_ok=True)
    final = run / f"step-{step:08d}"
    with atomic_path(final, verify=_refuse_incomplete) as part, disk_errors(final):
        part.mkdir()
        for stem, tensors in groups.items():
            plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(plain, part / f"{stem}.safetensors")
        if write_more is not None:
            write_more(part)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        hashes = {path.relative_to(part).as_posix(): _sha256(path) for path in files}
        manifest = {"step": step, "facts": facts, "sha256": hashes}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    if keep is not None:
        for old in sorted(run.glob("step-*"))[:-keep]:
            _remove(old)
    return final


def is_complete(checkpoint: Path) -> bool:
    """Whether every file the manifest names is there with its recorded sha256."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all(_sha256(checkpoint / name) == digest for name, digest in manifest["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    return next((c for c in sorted(run.glob("step-*"), reverse=True) if is_complete(c)), None)


def load_checkpoint(checkpoint: Path) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read `(step, groups, facts)` as given to `save_checkpoint`."""
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    own = [name for name in manifest["sha256"] if "/" not in name and name.endswith(".safetensors")]
    groups = {Path(name).stem: load_file(checkpoint / name) for name in own}
    return int(manifest["step"]), groups, manifest["facts"]


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what the safetensors library raises on a full or failing disk into an OSError."""
    try:
        yield
    except SafetensorError as error:
        full = "StorageFull" in str(error) or "No space left" in str(error) or "code: 28" in str(error)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code), str(place)) from error


def _refuse_incomplete(checkpoint: Path) -> None:
    if not is_complete(checkpoint):
        raise OSError(f"{checkpoint} does not verify after writing; the disk may be failing")


def _remove(checkpoint: Path) -> None:
    """Take a checkpoint away; its manifest goes first, so that half of it is never taken for a whole one."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
