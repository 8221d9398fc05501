"""Rows of a list file (.jsonl, .csv, .tsv, .parquet), each with its place; a broken one stops no other."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_diffusion.config import ConfigError, shown
from video_diffusion.training.data.candidates import Candidate
from video_diffusion.training.data.caption_text import CaptionError, checked_caption, encoding_of

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
    """Every row of a list file, in constant memory.

    Raises:
        ConfigError: not such a file, not text, or a quote that is never closed, after which nothing is sure.
    """
    readers = {".jsonl": _json_rows, ".csv": _table_rows, ".tsv": _table_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{path}: a list of clips must end in {', '.join(LIST_SUFFIXES)}; rename it")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name a list of clips")
    try:
        yield from readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not {error.encoding.upper()}; save it as UTF-8") from None


def column_names(path: Path) -> list[str]:
    """The columns of a table, or the keys of the first row of JSON lines; empty if there is none.

    Raises:
        ConfigError: as `read_list`.
    """
    first = next(read_list(path), None)
    return [] if first is None else list(first.values)


def _json_rows(path: Path) -> Iterator[ListRow]:
    with path.open(encoding=_encoding(path), newline="\n") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line, object_pairs_hook=_no_key_twice)
            except RecursionError:
                yield ListRow(where, problem="is nested too deep; give one flat object per line")
                continue
            except ValueError as error:
                why = str(error).splitlines()[0].split(":")[0]
                yield ListRow(where, problem=f"not JSON ({why}); give one object per line")
                continue
            if isinstance(values, dict):
                yield ListRow(where, values)
            else:
                yield ListRow(where, problem=f"not an object (given {shown(values, 40)})")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two captions is meant cannot be known."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice")
    return values


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
