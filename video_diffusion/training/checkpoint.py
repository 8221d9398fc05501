"""Checkpoints: folders that are whole or absent, safetensors only, verified by the hashes they carry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"


def save_checkpoint(
    run: Path, step: int, groups: dict[str, dict[str, Tensor]], facts: dict[str, Any], keep: int = 2
) -> Path:
    """Write `run/step-00000123`: a safetensors file per group, the manifest with their sha256, then rename.

    Args:
        run: The run's folder, made when missing.
        step: Steps finished.
        groups: File stem to tensors, for example model, ema, optimizer.
        facts: JSON values to find again on resume (settings, counters).
        keep: Older checkpoints beyond this many are removed, only after the new one verifies.
    """
    run.mkdir(parents=True, exist_ok=True)
    final, part = run / f"step-{step:08d}", run / f".step-{step:08d}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    hashes = {}
    for stem, tensors in groups.items():
        file = part / f"{stem}.safetensors"
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        hashes[file.name] = _sha256(file)
    manifest = {"step": step, "facts": facts, "sha256": hashes}
    with (part / MANIFEST).open("w", encoding="utf-8") as handle:
        json.dump(manifest, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    if final.exists():
        shutil.rmtree(final)
    part.rename(final)
    if not is_complete(final):
        raise OSError(f"{final} does not verify after writing; the disk may be failing")
    for old in sorted(run.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def is_complete(checkpoint: Path) -> bool:
    """Whether every file the manifest names is there with its recorded sha256."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all(_sha256(checkpoint / name) == digest for name, digest in manifest["sha256"].items())
    except (OSError, ValueError, KeyError):
        return False


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    return next((c for c in sorted(run.glob("step-*"), reverse=True) if is_complete(c)), None)


def load_checkpoint(checkpoint: Path) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read `(step, groups, facts)` as given to `save_checkpoint`."""
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    groups = {Path(name).stem: load_file(checkpoint / name) for name in manifest["sha256"]}
    return int(manifest["step"]), groups, manifest["facts"]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
