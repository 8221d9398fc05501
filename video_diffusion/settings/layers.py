"""Settings from YAML files, `--set` texts and flags, laid over each other; each value keeps its origin."""

import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Le, MultipleOf
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import DocumentStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from video_diffusion.settings.json_text import read_bytes

MAX_LISTED = 40  # names
KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """A setting or config file that cannot be used; one line: where, what, value, way out."""


@dataclass(frozen=True)
class Layer:
    """Values as a nest of dicts and lists, and where each was written ("clip.yaml:3", "--seed").

    The origin of the empty path is the file itself.
    """

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
    if close:
        return f"; did you mean {meant}?"
    more = len(known) - MAX_LISTED
    return f"; known are {', '.join(known[:MAX_LISTED])}{f' and {more} more' if more > 0 else ''}"


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


# Layers into frozen pydantic settings; what is wrong is told in one line: where, what, value, way out.


Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], layer: Layer) -> Model:
    """Builds the frozen settings from a layer.

    Raises:
        ConfigError: the first thing wrong, as one line with its origin, its rule and the value given.
    """
    try:
        return model.model_validate(dict(layer.values))
    except ValidationError as error:
        details = error.errors()
        # a misspelled name explains the one that is missing
        first = next((each for each in details if each["type"] == "extra_forbidden"), details[0])
        line = _sentence(model, first)
        origin = layer.origin(tuple(first["loc"]))
        if not origin:  # it stands nowhere: of what does stand there, the line names what it goes with
            named = (layer.origin((name,)) for name in re.findall(r"\w+", line) if name in model.model_fields)
            origin = next(filter(None, named), layer.origins.get((), ""))
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise ConfigError(f"{origin}: {line}{more}" if origin else f"{line}{more}") from None


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    """One pydantic error in our words: field, rule, value given, way out."""
    path = tuple(error["loc"])
    name, given = dotted(path), f" (given {shown(error['input'])})"
    holder: type[BaseModel] | None = model
    for key in path[:-1]:
        holder = _section(holder, key)
    fields = holder.model_fields if holder is not None else {}
    if error["type"] == "extra_forbidden":
        return f"no setting '{name}'{nearest(str(path[-1]), fields)}"
    if error["type"] == "missing":
        return f"{name} is missing; give it"
    if error["type"] == "value_error":
        return f"{name} {error['ctx']['error']}{given}" if path else str(error["ctx"]["error"])
    known = fields.get(str(path[-1])) if path else None
    rule = _rule(known.annotation, known.metadata) if known is not None else ""
    return f"{name} must be {rule}{given}" if rule else f"{name}: {error['msg']}{given}"


def _section(model: type[BaseModel] | None, key: str | int) -> type[BaseModel] | None:
    if isinstance(key, int):  # an item of a list of sections
        return model
    found = model.model_fields.get(str(key)) if model is not None else None
    kinds = (found.annotation, *get_args(found.annotation)) if found is not None else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _rule(annotation: Any, metadata: Sequence[Any]) -> str:
    """What a field accepts, in words, from its type and its constraints."""
    union = get_origin(annotation) in {Union, UnionType}
    kinds = [kind for kind in (get_args(annotation) if union else (annotation,)) if kind is not type(None)]
    if len(kinds) != 1:
        return ""
    if get_origin(kinds[0]) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kinds[0]))
    if isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return "a section of key: value lines"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    if kinds[0] not in words:
        return ""
    rule = words[kinds[0]]
    low = next((item.ge for item in metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in metadata if isinstance(item, Le)), None)
    step = next((item.multiple_of for item in metadata if isinstance(item, MultipleOf)), None)
    if step is not None:
        rule += f", a multiple of {step},"
    if low is not None:
        rule += f" from {low} to {high}" if high is not None else f", {low} or more"
    elif high is not None:
        rule += f", at most {high}"
    return rule


# YAML 1.2 texts read as layers: size, depth and growth limited, nothing executed or interpolated.


SCHEMA_VERSION = 1
MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 20_000  # after aliases are followed: what an alias bomb grows to


def read_config(path: Path, _including: tuple[Path, ...] = ()) -> Layer:
    """Reads one YAML mapping; `extends: other.yaml`, relative to the file, is read first and overridden.

    Raises:
        ConfigError: not a readable YAML 1.2 mapping of at most 1 MB and 50 levels, a duplicate key, a tag,
            an alias that grows without bound, a loop of `extends`, or a newer schema version.
    """
    layer = _parse(_text_of(path), str(path))
    values = dict(layer.values)
    version = values.pop("schema_version", SCHEMA_VERSION)
    if version not in range(1, SCHEMA_VERSION + 1) or isinstance(version, bool):
        raise ConfigError(
            f"{layer.origin(('schema_version',))}: made by schema version {shown(version)}; "
            f"this program reads version {SCHEMA_VERSION}, install a newer one"
        )
    parent = values.pop("extends", None)
    if parent is None:
        return Layer(values, layer.origins)
    where = layer.origin(("extends",))
    if not isinstance(parent, str) or Path(parent).suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{where}: extends must name a .yaml file (given {shown(parent)})")
    target = path.parent / parent
    chain = (*_including, path.resolve())
    if target.resolve() in chain:
        raise ConfigError(f"{where}: extends runs in a circle through {target}; break the circle")
    return merge(read_config(target, chain), Layer(values, layer.origins))


def assign(layer: Layer, assignment: str, origin: str = "--set") -> Layer:
    """Applies one `a.b=c`: dotted path (digits address list items) and a YAML 1.2 value after the first `=`.

    Raises:
        ConfigError: no `=`, an empty key, a value that is not YAML, or a path through a plain value.
    """
    name, equals, text = assignment.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{origin}: needs key=value (given {shown(assignment)}); for example seed=7")
    where = f"{origin} {name.strip()}"
    parsed = _parse(f"value: {text}" if text.strip() else "value: ''", where)
    if set(parsed.values) != {"value"}:
        raise ConfigError(
            f"{where}: the value must be one line of YAML (given {shown(text)}); put it in quotes"
        )
    return set_value(layer, keys, parsed.values["value"], where)


def dump(settings: BaseModel) -> str:
    """YAML of every setting that is not None; `read_config` and `validate` give equal settings back."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 2**30
    yaml.dump(settings.model_dump(mode="json", exclude_none=True), stream)
    return stream.getvalue()


def _text_of(path: Path) -> str:
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    if not path.is_file():
        raise ConfigError(
            f"{path}: {'is a directory' if path.is_dir() else 'not a regular file'}; give a YAML file"
        )
    try:
        data = read_bytes(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; this is not a config file")
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or b"\0" in data[:4]:
        raise ConfigError(f"{path}: is UTF-16 or binary, not UTF-8; re-save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"0x{data[error.start]:02x}"
        raise ConfigError(f"{path}: not UTF-8 (byte {byte} at {error.start}); re-save it as UTF-8") from None


def read_yaml(path: Path) -> Any:
    """Whatever another program's YAML file holds, as plain values; limited as `read_config` is.

    Raises:
        ConfigError: As `read_config`, but for the mapping.
    """
    return _Reader(str(path)).value(_root_of(_text_of(path), str(path)), ())


def _parse(text: str, where: str) -> Layer:
    """One YAML 1.2 document holding a mapping, as a layer whose origins are "where:line"."""
    root = _root_of(text, where)
    if not isinstance(root, MappingNode):
        kind = "list" if isinstance(root, SequenceNode) else "plain value"
        raise ConfigError(f"{where}: holds a {kind} at the top; it must be key: value lines")
    reader = _Reader(where)
    values = reader.mapping(root, ())
    return Layer(values, {(): where, **reader.origins})


def _root_of(text: str, where: str) -> Node:
    """The one document of a YAML 1.2 text, neither empty nor out of shape."""
    try:
        _check_shape(text, where)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark is not None else where
        problem = str(error.problem)
        if "\\t" in problem:
            problem = "a tab; YAML indents with spaces only"
        raise ConfigError(f"{place}: {problem}") from None
    except YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({str(error).splitlines()[0]})") from None
    if root is None:
        raise ConfigError(f"{where}: empty; give key: value lines")
    assert isinstance(root, Node)
    return root


def _check_shape(text: str, where: str) -> None:
    """Limits that must hold before the recursive part of the parser runs."""
    depth = documents = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError(f"{where}:{line}: a second document; keep one document per file")
            if event.version is not None and tuple(event.version) != (1, 2):
                raise ConfigError(f"{where}:{line}: YAML {event.version}; only YAML 1.2 is read")
        name = type(event).__name__
        depth += name in {"MappingStartEvent", "SequenceStartEvent"}
        depth -= name in {"MappingEndEvent", "SequenceEndEvent"}
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}:{line}: nested deeper than {MAX_DEPTH} levels")
        if count > 3 * MAX_VALUES:  # a key, a value, the end of a section
            raise ConfigError(f"{where}:{line}: more than {MAX_VALUES} values; split the file")
        tag = getattr(event, "ctag", None)
        if tag is not None:
            raise ConfigError(f"{where}:{line}: a tag ({shown(str(tag))}); only plain values are read")


class _Reader:
    """Turns composed nodes into plain values, noting the line of each and refusing duplicates and bombs."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.origins: dict[KeyPath, str] = {}
        self.count = 0
        self.open: set[int] = set()

    def value(self, node: Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > MAX_VALUES or id(node) in self.open:
            raise ConfigError(
                f"{self.where}:{line}: aliases grow to more than {MAX_VALUES} values; write it out"
            )
        self.open.add(id(node))
        result: Any
        if isinstance(node, MappingNode):
            result = self.mapping(node, path)
        elif isinstance(node, SequenceNode):
            result = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            assert isinstance(node, ScalarNode)
            try:
                result = self.scalar(node)
            except ValueError:
                raise ConfigError(
                    f"{self.where}:{line}: {shown(node.value)} is not a number; put text in quotes"
                ) from None
        self.open.discard(id(node))
        return result

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        self.open.add(id(node))
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise ConfigError(f"{self.where}:{line}: a key must be a plain word")
            key = str(key_node.value)
            if key in lines:
                raise ConfigError(
                    f"{self.where}:{line}: {key} is already set on line {lines[key]}; delete one"
                )
            lines[key] = line
            single_line = self.where.startswith("--")
            self.origins[(*path, key)] = self.where if single_line else f"{self.where}:{line}"
            result[key] = self.value(value_node, (*path, key))
        return result

    def scalar(self, node: ScalarNode) -> Any:
        text, kind = str(node.value), str(node.tag).rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int" and len(text) < 100:
            sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
            return sign * int(digits, {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2].lower(), 10))
        if kind == "float":
            return float(re.sub(r"\.(inf|nan)", r"\1", text.replace("_", ""), flags=re.IGNORECASE))
        return text
