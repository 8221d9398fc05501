"""A good clip, and a folder with two of it."""

from pathlib import Path

import pytest
from painted_clips import paint_video


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 48x32 at 24 fps."""
    return paint_video(tmp_path_factory.mktemp("good") / "good.mp4")


@pytest.fixture
def folder(tmp_path: Path, good: Path) -> Path:
    """A folder with two good clips around whatever a test adds."""
    for name in ("a first", "z last"):
        (tmp_path / f"{name}.mp4").write_bytes(good.read_bytes() + b"")
        (tmp_path / f"{name}.txt").write_text(f"caption of {name}")
    return tmp_path
