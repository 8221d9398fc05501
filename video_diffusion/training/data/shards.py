"""Clips inside shards: members of tar files (webdataset's layout), rows of Parquet files (the hub's layout).

A clip in a shard is addressed as if the shard were a folder, `train-000.tar/000017.mp4`. So any of them can
be read at any time, as an exact resume needs, and whatever knows clips by their paths knows these.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

from video_diffusion.settings import ConfigError
from video_diffusion.settings.input_files import file_sha256
from video_diffusion.video import FrameSource, open_video

SHARD_SUFFIXES = (".tar", ".parquet")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
PLAIN_COLUMNS = ("video", "mp4", "webm", "bytes")
KEPT_INDICES = 1024  # of tar files, in each process

Stamp = tuple[int, int]
"""Size and time of change of a shard: what was known of it holds while these do."""


@dataclass(frozen=True)
class ClipFile:
    """A clip's bytes: a file, or a part of a shard.

    Attributes:
        path: As messages name it.
        shard: The tar or Parquet file that it is in; None for a file of its own.
        member: Its name in there, or the number of its row.
    """

    path: Path
    shard: Path | None = None
    member: str = ""

    def facts(self) -> tuple[int | None, int]:
        """Its size, where that is known without reading it, and when its file was changed.

        Raises:
            OSError: It is not there.
        """
        if self.shard is None:
            found = self.path.stat()
            return found.st_size, found.st_mtime_ns
        stamp = _stamp(self.shard)
        return (None if _is_table(self.shard) else self._place(stamp)[1]), stamp[1]

    def read(self) -> bytes:
        """All of it.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        if self.shard is None:
            return self.path.read_bytes()
        stamp = _stamp(self.shard)
        if _is_table(self.shard):
            return _row(self.shard, stamp, self.member)
        offset, size = self._place(stamp)
        with self.shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def sha256(self) -> str:
        """Of all of it."""
        return file_sha256(self.path) if self.shard is None else hashlib.sha256(self.read()).hexdigest()

    def open(
        self, *, allow_truncated: bool = False, near: Fraction | None = None
    ) -> AbstractContextManager[FrameSource]:
        """As `open_video`."""
        content = None if self.shard is None else self.read()
        return open_video(self.path, allow_truncated=allow_truncated, near=near, content=content)

    def _place(self, stamp: Stamp) -> tuple[int, int]:
        assert self.shard is not None
        places = tar_members(self.shard, stamp)
        if self.member not in places:
            raise FileNotFoundError(2, os.strerror(2), str(self.path))
        return places[self.member]


def clip_file(path: Path) -> ClipFile:
    """What a clip's path leads to; nothing of it need exist."""
    shard = shard_of(path)
    return ClipFile(path) if shard is None else ClipFile(path, shard, path.relative_to(shard).as_posix())


def shard_of(path: Path) -> Path | None:
    """The shard that a path goes on below."""
    above = (parent for parent in path.parents if parent.suffix.lower() in SHARD_SUFFIXES)
    return next((parent for parent in above if parent.is_file()), None)


def _stamp(shard: Path) -> Stamp:
    found = shard.stat()
    return found.st_size, found.st_mtime_ns


def _is_table(shard: Path) -> bool:
    return shard.suffix.lower() == ".parquet"


# Tar files: an index of where each member's bytes lie, made by reading the headers alone.


@dataclass(frozen=True)
class TarSample:
    """Members that follow each other and share their name up to its first dot: webdataset's sample.

    Attributes:
        key: The name they share.
        members: Names by what follows that dot, in small letters.
        problem: What is wrong with one of them.
    """

    key: str
    members: Mapping[str, str]
    problem: str = ""


class ShardError(ValueError):
    """A shard that cannot be read, or not to its end; the message says why, without its name."""


def _headers(shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as archive:
            yield from archive
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ShardError(f"is no tar file, or damaged ({str(error).splitlines()[0][:80]})") from None


def _plain(name: str) -> str:
    return PurePosixPath(name.lstrip("/")).as_posix()


def _problem(member: tarfile.TarInfo, shard_size: int) -> str:
    if not member.isreg() or member.issparse():
        return "is a link or another thing that is no plain file"
    if PurePosixPath(member.name).is_absolute() or ".." in PurePosixPath(member.name).parts:
        return "leaves the shard by its name"
    if member.offset_data + member.size > shard_size:
        return "is cut off, as is its shard"
    return ""


@lru_cache(maxsize=KEPT_INDICES)
def tar_members(shard: Path, stamp: Stamp) -> Mapping[str, tuple[int, int]]:
    """Offset and length of each plain member by its name; of two of one name the first.

    Args:
        shard: The tar file.
        stamp: Of it.
    """
    places: dict[str, tuple[int, int]] = {}
    try:
        for member in _headers(shard):
            if not _problem(member, stamp[0]):
                places.setdefault(_plain(member.name), (member.offset_data, member.size))
    except ShardError as error:
        if not places:
            raise OSError(5, f"{error}", str(shard)) from None
    return places


def tar_samples(shard: Path) -> Iterator[TarSample]:
    """The samples of a tar file, in its order.

    Raises:
        ShardError: After the last that can be read, if there should be more.
    """
    size = shard.stat().st_size
    members = (member for member in _headers(shard) if not member.isdir())
    for key, group in groupby(members, lambda member: _split(_plain(member.name))[0]):
        found: dict[str, str] = {}
        problem = ""
        for member in group:
            kind = _split(_plain(member.name))[1]
            problem = problem or _problem(member, size)
            if kind in found:
                problem = f"has two members that end in .{kind}; keep one"
            found[kind] = _plain(member.name)
        yield TarSample(key, found, problem)


def _split(name: str) -> tuple[str, str]:
    """A member's name up to the first dot of its last part, and what follows."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


# Parquet files: the bytes of a video in each row, as the hub's data sets keep them.


def parquet() -> Any:
    """The library's module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from pyarrow import parquet as found  # noqa: PLC0415 - only who has such a file needs it
    except ImportError:
        raise ConfigError(
            "clips in Parquet files need pyarrow, which is not installed; "
            "pip install 'video-diffusion[train]'"
        ) from None
    return found


def video_column(shard: Path) -> str | None:
    """The column that holds videos: bytes, or the hub's pair of bytes and path; None if there is none."""
    library = parquet()
    from pyarrow import ArrowException, types  # noqa: PLC0415

    try:
        schema = library.read_schema(shard)
    except (ArrowException, OSError):
        return None
    for column in schema:
        kind = column.type
        if types.is_struct(kind):
            inside = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
            kind = inside.get("bytes")
        elif column.name not in PLAIN_COLUMNS:
            continue
        if kind is not None and (types.is_binary(kind) or types.is_large_binary(kind)):
            return str(column.name)
    return None


def _content(value: Any) -> bytes | None:
    inside = value.get("bytes") if isinstance(value, dict) else value
    return inside if isinstance(inside, bytes) else None


@dataclass
class _Reading:
    """A Parquet file read row by row up to some row; the rows after it cost no more than themselves."""

    owner: tuple[int, Path, Stamp]
    rows: Iterator[Any]
    next_row: int


MISSING = object()
_reading: list[_Reading] = []  # one for each process: videos of a whole row group may not fit into memory


def _row(shard: Path, stamp: Stamp, number: str) -> bytes:
    """The video in a row.

    A row is reached by reading on from the last one, or from the beginning of its row group.
    """
    from pyarrow import ArrowException  # noqa: PLC0415

    path = shard / number
    if not number.isdecimal():
        raise FileNotFoundError(2, os.strerror(2), str(path))
    wanted, owner = int(number), (os.getpid(), shard, stamp)
    try:
        kept = _reading.pop() if _reading else None
        if kept is None or kept.owner != owner or not kept.next_row <= wanted < kept.next_row + 64:
            kept = _begin(owner, wanted)
        value = next(islice(kept.rows, wanted - kept.next_row, None), MISSING)
        if value is MISSING:
            raise FileNotFoundError(2, os.strerror(2), str(path))
        kept.next_row = wanted + 1
        _reading.append(kept)
    except (ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise OSError(5, f"not Parquet, or damaged ({str(error).splitlines()[0][:80]})", str(path)) from None
    content = _content(value)
    if content is None:
        raise OSError(5, "the row holds no video", str(path))
    return content


def _begin(owner: tuple[int, Path, Stamp], wanted: int) -> _Reading:
    file = parquet().ParquetFile(owner[1], pre_buffer=False, buffer_size=2**20)
    first, group = 0, 0
    while group < file.num_row_groups and first + file.metadata.row_group(group).num_rows <= wanted:
        first += file.metadata.row_group(group).num_rows
        group += 1
    column = video_column(owner[1])
    batches = file.iter_batches(
        batch_size=1, row_groups=range(group, file.num_row_groups), columns=[column], use_threads=False
    )
    return _Reading(owner, (batch.column(0)[0].as_py() for batch in batches), first)


def table_rows(shard: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a Parquet file without their videos, in constant memory.

    Raises:
        ShardError: It cannot be read.
    """
    from pyarrow import ArrowException  # noqa: PLC0415

    column = video_column(shard)
    try:
        file = parquet().ParquetFile(shard)
        others = [name for name in file.schema_arrow.names if name != column]
        if not others:
            yield from ({} for _ in range(file.metadata.num_rows))
            return
        for batch in file.iter_batches(1024, columns=others):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise ShardError(f"not Parquet, or damaged ({str(error).splitlines()[0][:80]})") from None
