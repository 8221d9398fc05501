"""JSON that anybody may have written: of a limited size and depth, from regular files only."""

import errno
import json
from pathlib import Path
from typing import Any

MAX_LEVELS = 50
MAX_JSON_BYTES = 64_000_000


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """Parse a text; what is nested deeper than 50 levels would break whatever looks at it later.

    Args:
        text: In UTF-8, with or without a byte order mark.
        strict: Refuses a key that is given twice, NaN and infinity. Other programs' files may hold them.

    Raises:
        ValueError: One line without the place: what is wrong.
    """
    plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    checks: dict[str, Any] = (
        {"parse_constant": _no_constant, "object_pairs_hook": _no_duplicates} if strict else {}
    )
    try:
        value = json.loads(plain, **checks)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if plain.count("[") + plain.count("{") > MAX_LEVELS:
        _check_depth(value)
    return value


def read_json_file(path: Path, strict: bool = True, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parse a regular file: a pipe or a device would never end.

    Raises:
        ValueError: As `parse_json`, or it is too large.
        OSError: It is not there, cannot be read, or is no regular file.
    """
    check_regular(path)
    data = read_bytes(path, max_bytes)
    if not data:
        raise ValueError("is empty")
    if len(data) > max_bytes:
        raise ValueError(f"is larger than {max_bytes} bytes")
    return parse_json(data, strict)


def check_regular(path: Path) -> None:
    """Refuse a pipe, a device, a folder.

    Raises:
        OSError: It is one, or is not there.
    """
    path.stat()
    if not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """What a regular file holds, at most one byte more than the limit; see `is_empty`."""
    if is_empty(path):
        return b""
    with path.open("rb") as file:
        return file.read(-1 if limit is None else limit + 1)


def is_empty(path: Path) -> bool:
    """Whether a file has no bytes, or is made up as it is read, which may wait for ever (/proc/kmsg)."""
    return not path.stat().st_size


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_LEVELS:
            raise ValueError("is nested too deep")
        inside = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inside for item in items if isinstance(item, dict | list)]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)[:80]!r} is given twice")
    return values
