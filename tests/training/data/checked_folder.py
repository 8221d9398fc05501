"""A check of a folder, what it took and rejected, and a clip that was cut off."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_diffusion.training.data import ClipEntry, read_manifest
from video_diffusion.training.data.folder import FolderCheck, find_source
from video_diffusion.video import write_video


def check(
    folder: Path, wanted: str = "auto", list_file: Path | None = None, **options: object
) -> FolderCheck:
    done = FolderCheck(folder, find_source(folder, wanted, list_file))
    for _ in done.steps(0, **options):
        pass
    return done


def reasons(done: FolderCheck) -> dict[str, str]:
    """As the file says them, which must be what the check returns."""
    rows = [json.loads(line) for line in (done.root / "rejects.jsonl").read_text().splitlines()]
    assert [(row["path"], row["where"], row["reason"]) for row in rows] == [
        (one.path, one.where, one.reason) for one in done.rejects
    ]
    return {row["path"]: row["reason"] for row in rows}


def taken(done: FolderCheck) -> dict[str, ClipEntry]:
    if done.entries:
        assert read_manifest(done.root) == done.entries
    return {entry.id: entry for entry in done.entries}


def assert_nothing_moved(done: FolderCheck) -> None:
    found = taken(done)
    assert {"a first", "z last"} <= set(found)
    for name, entry in found.items():
        assert entry.caption == f"caption of {name}"


def noise(num_frames: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 32, 48, 3), dtype=np.uint8)


def cut_fast_start(path: Path, good: Path) -> None:
    write_video(path, noise(), Fraction(8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
