"""YAML 1.2 texts read as layers: size, depth and growth limited, nothing executed or interpolated."""

import io
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import DocumentStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from video_diffusion.config.layers import ConfigError, KeyPath, Layer, merge, set_value, shown

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
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
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


def _parse(text: str, where: str) -> Layer:
    """One YAML 1.2 document holding a mapping, as a layer whose origins are "where:line"."""
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
    if not isinstance(root, MappingNode):
        kind = "list" if isinstance(root, SequenceNode) else "plain value"
        raise ConfigError(f"{where}: holds a {kind} at the top; it must be key: value lines")
    reader = _Reader(where)
    values = reader.mapping(root, ())
    return Layer(values, reader.origins)


def _check_shape(text: str, where: str) -> None:
    """Limits that must hold before the recursive part of the parser runs."""
    depth = documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
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
            result = self.scalar(node)
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
