"""What lies in a folder: videos, pictures and the rest, by name alone."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from video_diffusion.io.image_reader import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".3gp", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv",
    ".wmv", ".ogv", ".gif",
)  # fmt: skip
OWN_FILES = ("manifest.jsonl", "rejects.jsonl", "contact-sheet.png", "dataset.json")


def files_in(root: Path) -> Iterator[str]:
    """Files of a folder, relative to it, sorted; hidden ones and links to folders are left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def is_video(name: str) -> bool:
    """Whether a name ends as a video's does; what it holds is another question."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def is_picture(name: str) -> bool:
    """Whether a name ends as a picture's does, other than GIF, and is not one that the check itself drew."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in IMAGE_SUFFIXES and suffix != ".gif" and name not in OWN_FILES


def stem(name: str) -> str:
    """The path without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))
