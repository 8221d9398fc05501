"""What lies in a folder, hidden files too."""

from pathlib import Path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
