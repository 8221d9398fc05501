"""Rows of a job file, one at a time: .txt, .csv, .tsv, .jsonl or .yaml, each refused with its line."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from video_diffusion.settings import (
    ConfigError,
    GenerationSettings,
    Layer,
    assign,
    is_empty,
    nearest,
    parse_json,
    read_config,
    read_json_file,
    shown,
)

OWN_COLUMNS = ("seeds", "size", "name")
COLUMNS = (*GenerationSettings.model_fields, *OWN_COLUMNS)
OTHER_WORDS = {"seed": ("seeds",), "seeds": ("seed",), "size": ("width", "height")}
MAX_ROW_LINES = 50
MAX_CELL_CHARACTERS = 131_072
MAX_LINE_CHARACTERS = 1_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row: where it stands ("jobs.csv:3"), the values it sets, and `places` of their own where known."""

    where: str
    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a job file row by row, in constant memory (a .yaml file, at most 1 MB, is read whole)."""
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".txt": _text_rows,
        ".csv": _table_rows,
        ".tsv": _table_rows,
        ".jsonl": _json_rows,
        ".json": _array_rows,
        ".yaml": _yaml_rows,
        ".yml": _yaml_rows,
    }
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{path}: a job file must end in {', '.join(readers)}; rename it")
    if not path.is_file():
        raise ConfigError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; name a job file")
    found = False
    if not is_empty(path):
        if path.suffix.lower() not in {".yaml", ".yml"}:
            _check_encoding(path)
        for row in readers[path.suffix.lower()](path):
            found = True
            yield row
    if not found:
        raise ConfigError(f"{path}: holds no job; write one per line")


def _check_encoding(path: Path) -> None:
    """Refuses what is not UTF-8 before a line is read, naming the byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                pending = len(decoder.getstate()[0])
                decoder.decode(chunk)
                if 0 in chunk:
                    raise ConfigError(
                        f"{path}: holds a NUL byte at {offset + chunk.index(0)}; re-save as UTF-8"
                    )
                offset += len(chunk)
            pending = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = offset - pending + error.start
        raise ConfigError(
            f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x} at {at}); re-save as UTF-8"
        ) from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        number = 0
        while line := file.readline(MAX_LINE_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                raise ConfigError(
                    f"{path}:{number}: is longer than {MAX_LINE_CHARACTERS} characters; shorten it"
                )
            if line.strip():
                yield f"{path}:{number}", line.strip("\r\n")


def _text_rows(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        if not line.lstrip().startswith("#"):
            yield Row(where, {"prompt": line.strip()})


def _json_rows(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        try:
            values = parse_json(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{where}:{error.colno}: not JSON ({error.msg}); give one object per line"
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"{where}: {str(error).split(';')[0]}; give one plain object per line"
            ) from None
        if not isinstance(values, dict):
            raise ConfigError(f'{where}: must be an object such as {{"prompt": "…"}} (given {shown(values)})')
        yield Row(where, values)


def _array_rows(path: Path) -> Iterator[Row]:
    """One JSON array of objects or prompts."""
    try:
        items = read_json_file(path)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; give a list of flat objects, or .jsonl") from None
    if not isinstance(items, list):
        raise ConfigError(f"{path}: must be a list of objects or prompts (given {shown(items)})")
    for index, item in enumerate(items):
        values = {"prompt": item} if isinstance(item, str) else item
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {index} must be an object or a prompt (given {shown(item)})")
        yield Row(f"{path}: {index}", values)


def _yaml_rows(path: Path) -> Iterator[Row]:
    layer = read_config(path)
    values = dict(layer.values)
    jobs = values.pop("jobs", None)
    if not isinstance(jobs, list):
        raise ConfigError(f"{path}: must hold a list under jobs:, with one '- prompt: …' per job")
    for index, job in enumerate(jobs):
        keys = list(job) if isinstance(job, dict) else []
        places = {key: layer.origin(("jobs", index, key)) for key in keys}
        where = next(iter(places.values()), layer.origin(("jobs",)))
        if isinstance(job, str):
            job = {"prompt": job}  # noqa: PLW2901 - a plain text is a job with nothing but a prompt
        if not isinstance(job, dict):
            raise ConfigError(
                f"{where}: jobs.{index} must be a text or key: value lines (given {shown(job)})"
            )
        yield Row(where, {**_without(values, job), **job}, places)


def _without(values: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The values for all jobs, less those that a job says in other words."""
    said = {other for key in job.keys() & OTHER_WORDS.keys() for other in OTHER_WORDS[key]}
    return {key: value for key, value in values.items() if key not in said}


def _table_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # of the whole process, and others set their own
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(MAX_LINE_CHARACTERS)
        file.seek(0)
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(first)
        reader = csv.reader(file, delimiter=separator, strict=True)
        header: list[str] | None = None
        start = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise ConfigError(f"{path}:{start}: {_csv_problem(str(error))}") from None
            where, start, span = f"{path}:{start}", reader.line_num + 1, reader.line_num - start + 1
            if span > MAX_ROW_LINES:
                raise ConfigError(f"{where}: one row runs over {span} lines; close the quote that it opens")
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(where, cells)
                continue
            if len(cells) != len(header):
                raise ConfigError(
                    f"{where}: has {len(cells)} cells, but the header has {len(header)}; put a text that "
                    f"holds {'tabs' if separator == chr(9) else repr(separator)} in quotes"
                )
            yield Row(where, _row(where, header, cells))


def _row(where: str, header: list[str], cells: list[str]) -> dict[str, Any]:
    return {n: _cell(where, n, text) for n, text in zip(header, cells, strict=True) if text.strip()}


def _separator(line: str) -> str:
    return max(",;\t", key=lambda sign: (line.count(sign), sign == ","))


def _csv_problem(message: str) -> str:
    if "field limit" in message:
        return f"a cell is longer than {csv.field_size_limit()} characters; close its quote, or shorten it"
    if "unexpected end of data" in message:
        return "opens a quote that is never closed; close it"
    return f"not CSV ({message}); double a quote inside quotes"


def _header(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not set(names) & set(COLUMNS):
        raise ConfigError(
            f"{where}: the first line must name the columns, prompt among them (found {shown(names)})"
        )
    for name in names:
        if name not in COLUMNS:
            raise ConfigError(f"{where}: no column '{shown(name)[1:-1]}'{nearest(name, COLUMNS)}")
        if names.count(name) > 1:
            raise ConfigError(f"{where}: column {name} stands twice; delete one")
    return names


def _cell(where: str, name: str, text: str) -> Any:
    """A cell as what the setting wants, else as text; the check of the settings tells the rule.

    Lists and sections are written as in YAML, [a, b] and {0: a}; a list of one needs no brackets.
    """
    kinds = _kinds_of(name)
    if kinds & {tuple, list, dict} and text.lstrip()[0] in "[{":
        return assign(Layer({}), f"{name}={text}", where).values[name]
    if kinds & {tuple, list} and str not in kinds:
        return [text]
    if bool in kinds:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                return text
    return text


@cache
def _kinds_of(name: str) -> set[Any]:
    """The types that a column's setting can hold; none for `OWN_COLUMNS`."""
    field = GenerationSettings.model_fields.get(name)
    return _kinds(field.annotation) if field is not None else set()


def _kinds(annotation: Any) -> set[Any]:
    """The types that a setting can hold, unions and annotations opened, not looking into containers."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    return {origin or annotation}
