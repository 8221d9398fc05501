"""Where the captions of a folder are: text files beside clips, a table, or the list of a published set."""

from dataclasses import dataclass
from pathlib import Path

from video_diffusion.config import ConfigError, shown
from video_diffusion.training.data.clip_files import OWN_FILES
from video_diffusion.training.data.list_file import LIST_SUFFIXES, column_names

FORMATS = ("pairs", "metadata", "webvid", "openvid", "panda70m", "cogvideo")
_METADATA = tuple(f"metadata{suffix}" for suffix in LIST_SUFFIXES)
COGVIDEO_LINES = (
    ("videos.txt", "prompts.txt"),
    ("videos.txt", "prompt.txt"),
)  # CogVideo: line i belongs to line i
_COLUMNS = {
    "metadata": ({"file_name"}, ("text", "caption")),
    "webvid": ({"videoid", "name"}, ("name",)),
    "openvid": ({"video", "caption"}, ("caption",)),
    "panda70m": ({"videoID", "timestamp", "caption"}, ("caption",)),
}


@dataclass(frozen=True)
class Source:
    """Which of the formats a folder has, and the list file, if it has one."""

    format: str
    list_file: Path | None = None


def find_source(root: Path, wanted: str = "auto", list_file: Path | None = None) -> Source:
    """Finds out where the captions of a folder are.

    Args:
        root: the folder.
        wanted: one of `FORMATS`, or auto.
        list_file: of the clips, wherever it lies; None looks in the folder.

    Raises:
        ConfigError: no folder, no such list, columns that no format has, or several lists to choose from.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise ConfigError(f"{root}: {what}; name a folder of clips")
    if list_file is None and wanted not in {"pairs", "cogvideo"}:
        tables = [
            path
            for path in sorted(root.iterdir())
            if path.suffix.lower() in LIST_SUFFIXES and path.name not in OWN_FILES
            if not path.name.startswith(".") and (path.name in _METADATA or _format_of(path))
        ]
        tables = [path for path in tables if wanted in {"auto", _format_of(path)} or path.name in _METADATA]
        if len(tables) > 1:
            names = ", ".join(path.name for path in tables[:4])
            raise ConfigError(f"{root}: holds several lists ({names}); choose one with --list")
        list_file = tables[0] if tables else None
    if list_file is not None:
        if wanted == "cogvideo":
            raise ConfigError(f"{list_file}: cogvideo has no table; its videos.txt and prompts.txt are found")
        return Source(_check_columns(list_file, wanted), list_file)
    if wanted in {"auto", "cogvideo"}:
        for videos, _ in COGVIDEO_LINES:
            if any((root / prompts).is_file() for _, prompts in COGVIDEO_LINES) and (root / videos).is_file():
                return Source("cogvideo", root / videos)
        if (root / "labels").is_dir() and (root / "videos").is_dir():
            return Source("cogvideo")
    if wanted not in {"auto", "pairs"}:
        raise ConfigError(f"{root}: no list of {wanted} in it; name it with --list")
    return Source("pairs")


def _check_columns(path: Path, wanted: str) -> str:
    found = column_names(path)
    if wanted == "auto":
        wanted = "metadata" if path.name in _METADATA and "file_name" in found else _format_of(path)
    if wanted and wanted != "pairs":
        needed, captions = _COLUMNS[wanted]
        if needed <= set(found) and set(captions) & set(found):
            return wanted
    ways = "; ".join(f"{kind}: {', '.join(sorted(needed))}" for kind, (needed, _) in _COLUMNS.items())
    raise ConfigError(f"{path}: its columns are {shown(found)}; a list needs those of one format ({ways})")


def _format_of(path: Path) -> str:
    """The format whose columns a table has, or nothing; the most particular first."""
    try:
        found = set(column_names(path))
    except ConfigError:
        return ""
    for kind in ("panda70m", "webvid", "metadata", "openvid"):
        needed, captions = _COLUMNS[kind]
        if needed <= found and found & set(captions):
            return kind
    return ""
