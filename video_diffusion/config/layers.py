"""Layers of settings: nests of plain values that remember where each was written."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """A setting or config file that cannot be used; one line: where, what, value, way out."""


@dataclass(frozen=True)
class Layer:
    """Values as a nest of dicts and lists, and where each was written ("clip.yaml:3", "--seed")."""

    values: Mapping[str, Any]
    origins: Mapping[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path` was written, else what is around it, else a part of it; "" if unknown."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return next((text for at, text in self.origins.items() if path and at[: len(path)] == path), "")


def set_value(layer: Layer, keys: Sequence[str], value: object, origin: str) -> Layer:
    """The layer with the value at `keys` replaced; missing sections are made.

    Raises:
        ConfigError: a part of the path is a plain value, or a list without that item.
    """
    values = _copy(layer.values)
    place: Any = values
    path: list[str | int] = []
    for index, key in enumerate(keys):
        step: str | int = key
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise ConfigError(f"{origin}: {dotted(path)} is a list of {len(place)}; no item {shown(key)}")
            step = int(key)
        elif not isinstance(place, dict):
            raise ConfigError(f"{origin}: {dotted(path)} is {shown(place)}, not a section; it has no {key}")
        path.append(step)
        if index == len(keys) - 1:
            place[step] = value
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
        else:
            place = place[step]
    kept = {at: text for at, text in layer.origins.items() if at[: len(path)] != tuple(path)}
    return Layer(values, {**kept, tuple(path): origin})


def merge(low: Layer, high: Layer) -> Layer:
    """Lays `high` over `low`: sections merge key by key, everything else (lists too) replaces."""
    values, origins = _copy(low.values), dict(low.origins)

    def lay(below: dict[str, Any], above: Mapping[str, Any], at: KeyPath) -> None:
        for key, value in above.items():
            path = (*at, key)
            if isinstance(value, Mapping) and isinstance(below.get(key), dict):
                lay(below[key], value, path)
                continue
            for known in [known for known in origins if known[: len(path)] == path]:
                del origins[known]
            below[key] = _copy(value)

    lay(values, high.values, ())
    return Layer(values, {**origins, **high.origins})


def nearest(name: str, names: Iterable[str]) -> str:
    """For the end of an error: "; did you mean 'x'?" for a near miss or a part of one, else all names."""
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1)
    if not close and len(name) > 2:
        close = [each for each in known if name in each]
    meant = " or ".join(f"'{each}'" for each in close)
    return f"; did you mean {meant}?" if close else f"; known are {', '.join(known)}"


def shown(value: object, limit: int = 80) -> str:
    """The value as one short line, control characters escaped."""
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 512 else "a huge number"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def dotted(path: Iterable[str | int]) -> str:
    """The path as it is written in a file: a.b.0."""
    return ".".join(str(key) for key in path)
