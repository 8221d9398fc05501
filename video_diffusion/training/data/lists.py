"""Clips as lists claim them: files of a folder, list files, and the lists of published data sets."""

import ast
import codecs
import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from video_diffusion.settings import ConfigError, is_empty, parse_json, read_bytes, shown
from video_diffusion.training.data.shards import shard_of
from video_diffusion.video.reader import IMAGE_SUFFIXES

MAX_CAPTION_BYTES, MISSING_CAPTION = 100_000, "is missing"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class CaptionError(ValueError):
    """A caption that cannot be used; the message is one line without the file's name."""


def read_caption(path: Path) -> str:
    """The caption in a text file."""
    try:
        if not path.is_file():
            raise CaptionError("is not a regular file")
        if path.stat().st_size > MAX_CAPTION_BYTES:
            raise CaptionError(f"has {path.stat().st_size} bytes, above {MAX_CAPTION_BYTES}: no caption")
        data = read_bytes(path)
    except OSError as error:
        raise CaptionError(f"cannot be read ({error.strerror})") from None
    return caption_in(data)


def caption_in(data: bytes) -> str:
    """The caption that a text file's bytes hold."""
    try:
        text = data.decode(encoding_of(data[:3]))
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise CaptionError(f"is not {error.encoding.upper()} ({byte}); save it as UTF-8") from None
    return checked_caption(text)


def encoding_of(head: bytes) -> str:
    """The encoding that a file's first three bytes name; UTF-8 if none."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")


def checked_caption(value: object) -> str:
    """A caption without the white space around it."""
    if not isinstance(value, str):
        raise CaptionError(MISSING_CAPTION if value is None else f"is not a text but {type(value).__name__}")
    text = value.strip().strip("\ufeff").strip()
    if not text:
        raise CaptionError("is empty; write one, or take the clip away")
    if "\0" in text:
        raise CaptionError("holds a NUL character; save it as UTF-8")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise CaptionError("holds half a character (a lone surrogate); save it as UTF-8") from None
    if size > MAX_CAPTION_BYTES:
        raise CaptionError(f"has {size} bytes, above {MAX_CAPTION_BYTES}: no caption")
    return text


# What lies in a folder: videos, pictures and the rest, by name alone.


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


# Clips as somebody claims them: a file, its caption and where both were written, before any is opened.


@dataclass(frozen=True)
class Candidate:
    """One clip as its source names it; caption and file are one record and never part.

    Attributes:
        path: of the file, relative to the folder, with "/".
        caption: checked; None where `problem` says why.
        where: the place of the claim: a list's line, or the caption's file.
        start, end: seconds of a stretch of the file; None for all of it.
        stretch: number of the stretch, None for a whole file.
        problem: why it cannot be a clip; empty if nothing is known against it.
        id: given by `settle`: the path without its suffix, and the number of the stretch.
    """

    path: str
    caption: str | None
    where: str
    start: float | None = None
    end: float | None = None
    stretch: int | None = None
    problem: str = ""
    id: str = ""


@dataclass(frozen=True)
class Reject:
    """A clip, caption or row that cannot be used, and why; `path` is as its source gives it."""

    path: str
    where: str
    reason: str


def settle(root: Path, candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Reject]]:
    """Parts the candidates that may be decoded from those that may not.

    Refused are addresses, paths and links that leave the folder, missing files, captions that are none, and
    whatever two candidates claim: where it cannot be known which caption is meant, neither is taken.
    """
    inside = root.resolve()
    kept: list[Candidate] = []
    rejects: list[Reject] = []
    names: dict[Path, dict[str, str]] = {}
    for candidate in candidates:
        unreadable = _leaves(candidate.path) or _unreachable(root, inside, candidate.path, names)
        is_row = candidate.path == candidate.where and candidate.problem  # it names no file at all
        reason = candidate.problem if is_row else unreadable or candidate.problem
        if reason:
            rejects.append(Reject(candidate.path, candidate.where, reason))
        else:
            kept.append(candidate)
    return _named(_without_rivals(kept, rejects)), rejects


def linked_folders(root: Path) -> list[Reject]:
    """Links to folders, which are not followed: they may leave the folder, or come back into it."""
    reason = "is a link to a folder, which is not followed; copy its clips here, or check that folder itself"
    links = [
        Path(folder) / name
        for folder, folders, _ in os.walk(root)
        for name in sorted(folders)
        if not name.startswith(".") and (Path(folder) / name).is_symlink()
    ]
    return [Reject(path.relative_to(root).as_posix(), str(path), reason) for path in links]


def plain_path(root: Path, name: str) -> str:
    """A path as this folder's files are written: relative, without ./ and doubled /.

    What is none, or leads out of the folder, stays as it is.
    """
    path = Path(name)
    if path.is_absolute() and ".." not in path.parts:
        inside = next((top for top in (root.absolute(), root.resolve()) if path.is_relative_to(top)), None)
        name = name if inside is None or path == inside else path.relative_to(inside).as_posix()
    return name if _leaves(name) else PurePosixPath(name).as_posix()


def _leaves(name: str) -> str:
    """Why a name is not a plain relative path, or nothing."""
    parts = PurePosixPath(name).parts
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8; rename it"
    if "://" in name or name.startswith(("data:", "concat:", "pipe:")):
        return "is an address; only files in the folder are read, download it first"
    if not name.strip() or "\0" in name or not parts:
        return f"is not a file name (given {shown(name, 40)})"
    if PurePosixPath(name).is_absolute() or "\\" in name or name[1:3] in {":/", ":\\"}:
        return "is not a path relative to the folder, written with /, nor inside it"
    if ".." in parts:
        return "leaves the folder (..)"
    return ""


def _unreachable(root: Path, inside: Path, name: str, names: dict[Path, dict[str, str]]) -> str:
    """Why there is no such file in the folder, or nothing."""
    path = shard_of(root / name) or root / name
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(inside):
            return "is a link that leaves the folder"
        if not real.is_file():
            return "is not a regular file"
    except RuntimeError:
        return "is a link to itself"
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            return f"cannot be reached ({os.strerror(error.errno or 0)})"
        twin = _names_in(path.parent, names).get(_folded(path.name))
        return f"no such file{f'; there is {shown(twin)}, whose case differs' if twin else ''}"
    return ""


def _names_in(folder: Path, known: dict[Path, dict[str, str]]) -> dict[str, str]:
    """The names in a folder by their folded form, listed once."""
    if folder not in known:
        found = folder.iterdir() if folder.is_dir() else ()
        known[folder] = {_folded(path.name): path.name for path in found}
    return known[folder]


def _without_rivals(kept: list[Candidate], rejects: list[Reject]) -> list[Candidate]:
    """Takes out what two candidates claim."""
    claims: dict[tuple[str, int | None], list[Candidate]] = {}
    for candidate in kept:
        claims.setdefault((_folded(candidate.path), candidate.stretch), []).append(candidate)
    single: list[Candidate] = []
    for rivals in claims.values():
        single += rivals if len(rivals) == 1 else []
        if len(rivals) == 1:
            continue
        same_file = len({rival.path for rival in rivals}) == 1
        if same_file and len({rival.caption for rival in rivals}) == 1:
            single.append(rivals[0])
            reason = f"is named in {rivals[0].where} already, with the same caption"
            rejects += [Reject(rival.path, rival.where, reason) for rival in rivals[1:]]
            continue
        for rival in rivals:
            other = next(one for one in rivals if one is not rival)
            reason = (
                f"has another caption in {other.where}; keep one"
                if same_file
                else f"differs from {shown(other.path)} only in upper and lower case or accents; rename one"
            )
            rejects.append(Reject(rival.path, rival.where, reason))
    return single


def _named(candidates: list[Candidate]) -> list[Candidate]:
    """Gives ids: without suffixes, but where two files of a list share a stem, with them."""
    stems = Counter((_folded(_stem(one.path)), one.stretch) for one in candidates)
    named = []
    for one in candidates:
        alone = stems[_folded(_stem(one.path)), one.stretch] == 1
        name = _stem(one.path) if alone else one.path
        named.append(replace(one, id=name if one.stretch is None else f"{name}#{one.stretch}"))
    return named


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _folded(name: str) -> str:
    """The name as a file system sees it that knows neither case nor ways to write an accent."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# Rows of a list file (.jsonl, .csv, .tsv, .parquet), each with its place; a broken one stops no other.


LIST_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_MAX_CELL = 16_000_000  # characters; Panda-70M keeps all captions of a video in one cell
_MAX_ROW_LINES = 200


@dataclass(frozen=True)
class ListRow:
    """One row: its place ("metadata.csv:3") and values, or why it has none."""

    where: str
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def candidate(self, path: str, caption: object) -> Candidate:
        """The clip that this row claims; a caption that is none becomes its problem."""
        try:
            return Candidate(path, checked_caption(caption), self.where)
        except CaptionError as error:
            return Candidate(path, None, self.where, problem=f"its caption in {self.where} {error}")


def read_list(path: Path) -> Iterator[ListRow]:
    """Every row of a list file, in constant memory."""
    readers = {".jsonl": _json_rows, ".csv": _table_rows, ".tsv": _table_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{path}: a list of clips must end in {', '.join(LIST_SUFFIXES)}; rename it")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name a list of clips")
    if is_empty(path) and path.suffix.lower() != ".parquet":
        return
    try:
        yield from readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not {error.encoding.upper()}; save it as UTF-8") from None


def column_names(path: Path) -> list[str]:
    """The columns of a table, or the keys of the first row of JSON lines; empty if there is none."""
    first = next(read_list(path), None)
    return [] if first is None else list(first.values)


def _json_rows(path: Path) -> Iterator[ListRow]:
    with path.open(encoding=_encoding(path), newline="\n") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                values = parse_json(line)
            except ValueError as error:
                why = str(error).splitlines()[0].split(":")[0]
                yield ListRow(where, problem=f"not JSON ({why}); give one object per line")
                continue
            if isinstance(values, dict):
                yield ListRow(where, values)
            else:
                yield ListRow(where, problem=f"not an object (given {shown(values, 40)})")


def _table_rows(path: Path) -> Iterator[ListRow]:
    csv.field_size_limit(_MAX_CELL)
    with path.open(encoding=_encoding(path), newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = max(",;\t", key=lambda sign: (first.count(sign), sign == ","))
        reader = csv.reader(file, delimiter=separator, strict=True)
        header: list[str] | None = None
        start = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ConfigError(
                    f"{path}:{start}: not CSV ({error}); close or double the quote there"
                ) from None
            if cells is None:
                break
            where, lines = f"{path.name}:{start}", reader.line_num + 1 - start
            start = reader.line_num + 1
            if lines > _MAX_ROW_LINES:
                raise ConfigError(f"{path.parent}/{where}: one row runs over {lines} lines; close its quote")
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    twice = next(name for name in header if header.count(name) > 1)
                    raise ConfigError(
                        f"{path}:{reader.line_num}: column {shown(twice)} stands twice; delete one"
                    )
            elif len(cells) != len(header):
                yield ListRow(where, problem=f"has {len(cells)} cells, but the header has {len(header)}")
            else:
                yield ListRow(where, dict(zip(header, cells, strict=True)))


def _parquet_rows(path: Path) -> Iterator[ListRow]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - only who has such a file needs it
    except ImportError:
        raise ConfigError(f"{path}: reading it needs pyarrow; pip install pyarrow, or convert it") from None
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(256):
            for values in batch.to_pylist():
                number += 1
                yield ListRow(f"{path.name}:{number}", values)
    except (ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not Parquet ({str(error).splitlines()[0][:80]})") from None


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return encoding_of(file.read(3))


# Lists of published data sets: WebVid, OpenVid and Panda-70M, whose videos may lie anywhere in the folder.
#
# Each lists the whole set, so rows without a video here are usual and only counted.


KEYS = {"webvid": "videoid", "openvid": "video", "panda70m": "videoID"}
_CAPTIONS = {"webvid": "name", "openvid": "caption"}


def published_clips(root: Path, table: Path, kind: str) -> Iterator[Candidate | None]:
    """The clips of a list; None for each row whose video is not in the folder."""
    here: dict[str, list[str]] = {}
    for name in files_in(root):
        if is_video(name):
            here.setdefault(
                PurePosixPath(name).name if kind == "openvid" else PurePosixPath(name).stem, []
            ).append(name)
    named = set()
    for row in read_list(table):
        key = row.values.get(KEYS[kind])
        if row.problem:
            yield Candidate(row.where, None, row.where, problem=row.problem)
            continue
        name = str(key)
        if "/" in name or "\\" in name or name.startswith(".."):
            yield Candidate(name, None, row.where, problem="is not the plain name of a video")
            continue
        found = here.get(name, [])
        named.update(found)
        if not found:
            yield None
        elif len(found) > 1:
            yield Candidate(found[0], None, row.where, problem=f"is one of {len(found)} files named {name}")
        elif kind == "panda70m":
            yield from _stretches(row, found[0])
        else:
            yield row.candidate(found[0], row.values.get(_CAPTIONS[kind]))
    for names in here.values():
        for name in names:
            if name not in named:
                yield Candidate(name, None, table.name, problem=f"no row of {table.name} names it")


def _stretches(row: ListRow, name: str) -> Iterator[Candidate]:
    """Panda-70M: lists of [start, end] and of captions, one caption for each stretch of a whole video."""
    try:
        times = _listed(row.values["timestamp"])
        captions = _listed(row.values["caption"])
        if len(times) != len(captions):
            raise ValueError(f"has {len(times)} timestamps, but {len(captions)} captions")
        spans = [(_seconds(start), _seconds(end)) for start, end in times]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        why = str(error) if str(error).startswith("has ") else "timestamp and caption are not two lists"
        yield Candidate(name, None, row.where, problem=why)
        return
    for number, ((start, end), text) in enumerate(zip(spans, captions, strict=True)):
        try:
            caption = checked_caption(text)
        except CaptionError as error:
            yield Candidate(name, None, row.where, start, end, number, f"caption {number} {error}")
            continue
        problem = "" if 0 <= start < end else f"stretch {number} ends before it starts"
        yield Candidate(name, caption, row.where, start, end, number, problem)


def _listed(value: object) -> list[Any]:
    """A list, or the text of one as Python or JSON writes it."""
    if isinstance(value, str):
        value = ast.literal_eval(value)
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _seconds(text: object) -> float:
    """0:01:02.345 in seconds."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,4}:\d{1,2}:\d{1,2}(\.\d{1,9})?", text):
        raise ValueError("not a time")
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
