"""Weight and configuration files looked at before anything is loaded; takes no torch.

The libraries are silent about most of what is checked here: they fill in missing tensors at random, leave
out surplus ones, read integers as weights, and say of a damaged file only that it could not be loaded.
Anybody may have written these files, so every value is looked at before it is believed.
"""

import shlex
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_diffusion.settings import is_empty, parse_json, read_bytes, shown
from video_diffusion.settings.errors import as_one_line, reason_of

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_JSON_BYTES = 10_000_000
MAX_HEADER_BYTES = 100_000_000  # what the safetensors library itself accepts
MAX_NAMES = 100_000
MAX_NAME = 500  # characters; published ones have at most about 150
NUM_NAMED = 5
PICKLE_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Names around the tensors of a pickle that say nothing.
_NESTS = ("state_dict", "module", "controlnet")

# How old diffusers checkpoints (SD 1.x autoencoders) call the layers of an attention.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class ModelLoadError(ValueError):
    """A model folder, its configuration or its weights cannot be used; the message is one line."""

    exit_code = 3


class DeviceError(RuntimeError):
    """This machine has no such device; the message lists what it has."""

    exit_code = 4


libraries_said = partial(as_one_line, ModelLoadError)


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration file."""
    if not file.is_file():
        raise ModelLoadError(f"{file}: no such file; this is not a whole model folder")
    data = read_bytes(file, MAX_JSON_BYTES)
    if not data:
        raise ModelLoadError(f"{file}: is empty; download it again")
    if len(data) > MAX_JSON_BYTES:
        raise ModelLoadError(f"{file}: larger than {MAX_JSON_BYTES} bytes, so not a configuration")
    return json_object(data, str(file))


def json_object(text: bytes | str, where: str) -> dict[str, Any]:
    """Parse a text that must be a JSON object."""
    try:
        values = parse_json(text, strict=False)
    except ValueError as error:
        raise ModelLoadError(f"{where}: not JSON ({reason_of(error)}); download it again") from None
    if not isinstance(values, dict):
        raise ModelLoadError(f"{where}: must hold a mapping, but holds {shown(values)}")
    return values


OnBytes = Callable[[int, int], None]
"""Told how many bytes of weights are read so far, and of how many."""


@dataclass
class _Reading:
    on_bytes: OnBytes
    total: int
    done: int = 0


_READING: ContextVar[_Reading | None] = ContextVar("reading", default=None)


@contextmanager
def telling_bytes(on_bytes: OnBytes | None, places: Iterable[Path]) -> Iterator[None]:
    """Tell of each tensor that is read inside the block.

    Args:
        on_bytes: None tells nobody.
        places: What will be read: files, and folders of components. A component that is stored in two
            precisions counts with the larger one.
    """
    if on_bytes is None:
        yield
        return
    token = _READING.set(_Reading(on_bytes, sum(_stored_bytes(place) for place in places)))
    try:
        yield
    finally:
        _READING.reset(token)


def _stored_bytes(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    by_variant: dict[str, int] = {}
    for file in (each for each in place.glob("*.safetensors") if each.is_file()):
        variant = "fp16" if ".fp16" in file.name else ""
        by_variant[variant] = by_variant.get(variant, 0) + file.stat().st_size
    return max(by_variant.values(), default=0)


def _tell_read(num_bytes: int) -> None:
    reading = _READING.get()
    if reading is not None:
        reading.done += num_bytes
        reading.on_bytes(min(reading.done, reading.total), reading.total)


@dataclass(frozen=True)
class StoredTensor:
    """What a file says about one of its tensors."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredWeights:
    """Weights that were looked at but not loaded: of one file, or of one component of a model.

    Attributes:
        path: The file, or the component's folder.
        tensors: What is said of each.
        files: The safetensors files that hold them.
        metadata: Texts that a single file carries; written by anybody.
        variant: Under which variant name a folder stores them; None is the plain one.
        unpickled: The tensors of a pickle, which cannot be looked at without reading them.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    variant: str | None = None
    unpickled: "Mapping[str, Tensor] | None" = None

    def load(self, names: Collection[str] | None = None) -> "dict[str, Tensor]":
        """Read tensors, on the CPU, as they are stored."""
        import torch  # noqa: PLC0415  files are looked at without torch
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415

        wanted = set(self.tensors if names is None else names)
        for name in (name for name in self.tensors if name in wanted):
            check_floating(self.path, name, self.tensors[name].dtype)
        if self.unpickled is not None:
            tensors = {name: self.unpickled[name] for name in self.unpickled if name in wanted}
        else:
            tensors = {}
            for file in self.files:
                try:
                    with safe_open(file, "pt") as opened:
                        for name in (name for name in opened.keys() if name in wanted):  # noqa: SIM118
                            tensors[name] = opened.get_tensor(name)
                            _tell_read(tensors[name].nbytes)
                except SafetensorError as error:  # it checks more than `read_header`
                    raise ModelLoadError(
                        f"{file}: its header is damaged ({reason_of(error)}); download it again"
                    ) from None
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelLoadError(f"{self.path}: {name} holds NaN or infinity; the file is damaged")
        return tensors


def open_weights(path: Path | str, *, allow_pickle: bool = False) -> StoredWeights:
    """Look at a weights file, safetensors or, where it is trusted, a pickle."""
    path = Path(path)
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file; check the spelling")
    if is_empty(path):
        raise ModelLoadError(f"{path}: must be a file of weights, but is empty; download it again")
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        tensors, metadata = read_header(path)
        return StoredWeights(path, tensors, (path,), metadata)
    if not allow_pickle:
        raise ModelLoadError(refused_pickle(str(path)))
    unpickled = _unpickled(path)
    tensors = {
        name: StoredTensor(
            _DTYPES.get(kind := str(tensor.dtype).removeprefix("torch."), kind), (*tensor.shape,)
        )
        for name, tensor in unpickled.items()
    }
    return StoredWeights(path, tensors, unpickled=unpickled)


def refused_pickle(name: str) -> str:
    """Say why a pickle is not read, and how it becomes something that is."""
    path = Path(name)
    return (
        f"{name}: a {path.suffix} file is a pickle that could run code; convert it once with "
        f"`video-diffusion convert {shlex.quote(name)} {shlex.quote(path.with_suffix('.safetensors').name)} "
        "--allow-pickle`, "
        "which reads tensors only"
    )


def find_weights(folder: Path, stem: str, wanted: str | None = None) -> StoredWeights:
    """Find a component's safetensors, one file or shards, and look at them."""
    for variant in (None, "fp16") if wanted is None else (wanted,):
        plain = folder / f"{stem if variant is None else f'{stem}.{variant}'}.safetensors"
        index = folder / f"{stem}.safetensors.index{'' if variant is None else f'.{variant}'}.json"
        files: tuple[Path, ...] = ()
        if plain.is_file():
            files = (plain,)
        elif index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
                raise ModelLoadError(
                    f"{index}: weight_map must give a file for each tensor, but is {shown(places)}; "
                    "download it again"
                )
            for name in sorted(set(places.values())):
                if "\0" in name or Path(name).name != name or not (folder / name).is_file():
                    raise ModelLoadError(
                        f"{index}: names {name!r}, which is not a file beside it; download the folder again"
                    )
            files = tuple(folder / name for name in sorted(set(places.values())))
        if files:
            tensors = {name: tensor for file in files for name, tensor in read_header(file)[0].items()}
            return StoredWeights(folder, tensors, files, variant=variant)
    if wanted is not None:
        raise ModelLoadError(
            f"{folder}: no {stem}.{wanted}.safetensors; leave the variant out, or name one that is there"
        )
    pickles = [file.name for file in sorted(folder.glob("*")) if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise ModelLoadError(
            f"{folder}: weights must be safetensors, but there is only {pickles[0]}, a pickle that could run "
            "code; convert it to safetensors where you trust it"
        )
    raise ModelLoadError(f"{folder}: no {stem}.safetensors; download the folder again")


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read which tensors and texts a safetensors file holds, having checked that it is one and is whole."""
    size = file.stat().st_size
    if not size:
        raise ModelLoadError(f"{file}: must be a safetensors file, but is empty; download it again")
    with file.open("rb") as stream:
        start = stream.read(64)
        if what := _something_else(start):
            raise ModelLoadError(f"{file}: must be a safetensors file, but is {what}")
        header_size = int.from_bytes(start[:8], "little")
        if size < 8 or header_size > min(size - 8, MAX_HEADER_BYTES):
            raise ModelLoadError(
                f"{file}: not a whole safetensors file: it has {size} bytes and claims a header of "
                f"{header_size}; download it again"
            )
        stream.seek(8)
        text = stream.read(header_size)
    try:
        header = json_object(text, str(file))
    except ModelLoadError:
        raise ModelLoadError(f"{file}: its header is damaged; download it again") from None
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ModelLoadError(f"{file}: its header is damaged at '__metadata__'; download it again")
    tensors, end = {}, 0
    for name, entry in header.items():
        stored = _stored_tensor(entry)
        if stored is None or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
            raise ModelLoadError(
                f"{file}: its header is damaged at {shown(name)}, which is {shown(entry)}; download it again"
            )
        tensors[name], end = stored, max(end, entry["data_offsets"][1])
    if size != 8 + header_size + end:
        raise ModelLoadError(
            f"{file}: has {size} bytes but should have {8 + header_size + end}; download it again"
        )
    return tensors, texts


def _stored_tensor(entry: object) -> StoredTensor | None:
    """One entry of a header; None if it does not say what it must, or says two things."""
    if not isinstance(entry, dict):
        return None
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        return None
    if len(offsets) != 2 or not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
        return None
    width = _BYTES.get(dtype)
    if width is not None and offsets[1] - offsets[0] != width * prod(shape):
        return None
    return StoredTensor(dtype, tuple(shape))


def _something_else(start: bytes) -> str | None:
    """Name a file by its first bytes, if they are those of what is usually found in place of weights."""
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; run `git lfs pull` in its repository"
    if start.lstrip()[:1] == b"<":
        return "a web page; download the file itself"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return "a pickle that could run code; convert it to safetensors where you trust it"
    return None


def compare_weights(
    stored: StoredWeights, model: "nn.Module", allow_extra: bool, described_by: str = "config.json"
) -> list[str]:
    """Check that files hold exactly the floating-point tensors that a model has; tell under which names.

    Args:
        stored: The files; names may be older ones.
        model: As its configuration says.
        allow_extra: Whether there may be surplus tensors.
        described_by: What says which tensors there must be.
    """
    found = {present_component_name(name): tensor for name, tensor in stored.tensors.items()}
    expected = {
        present_component_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    for name, shape in expected.items():
        if name in found and found[name].shape != shape:
            raise ModelLoadError(
                f"{stored.path}: {name} must have the shape {shape} that {described_by} says, but "
                f"is stored with {found[name].shape}; the weights belong to another base model or number of "
                "frames"
            )
    missing = [name for name in expected if name not in found]
    if missing:
        raise ModelLoadError(f"{stored.path}: {_named(missing)} missing; the files belong to another model")
    surplus = [name for name in found if name not in expected and not name.endswith("position_ids")]
    if surplus and not allow_extra:
        raise ModelLoadError(
            f"{stored.path}: {_named(surplus)} not part of the model that {described_by} describes; "
            "--allow-extra-weights (allow_extra_weights=True) leaves them out"
        )
    for name in expected:
        check_floating(stored.path, name, found[name].dtype)
    return [name for name in stored.tensors if present_component_name(name) in expected]


def check_floating(path: Path, name: str, dtype: str) -> None:
    """Refuse integers, and the short floating-point numbers (float8) that nothing here computes with."""
    if dtype not in FLOAT_TYPES:
        rule = "have at least 16 bits" if dtype.lower().startswith("f") else "be floating point"
        raise ModelLoadError(
            f"{path}: {name} must {rule}, but is stored as {dtype}; "
            "save the weights as float32, float16 or bfloat16"
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return f"{len(names)} tensors ({', '.join(names[:NUM_NAMED])}{more}) are"


def present_component_name(name: str) -> str:
    """Translate names that older versions of the libraries gave to a component's tensors."""
    name = name.removeprefix("text_model.")  # CLIP text encoders: transformers 5 leaves it out
    if ".attentions." in name:
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
    return name


def _unpickled(path: Path) -> "dict[str, Tensor]":
    """The tensors of a pickle, by torch's reader that makes nothing else; nested names get dots."""
    import torch  # noqa: PLC0415  see above

    if not zipfile.is_zipfile(path):
        raise ModelLoadError(
            f"{path}: not a file as torch has written them since version 1.6; it is damaged, or must be "
            "saved again with a newer torch"
        )
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        size = sum(entry.file_size for entry in archive.infolist())
    if packed or size > path.stat().st_size:  # it would be larger in memory than on the disk
        raise ModelLoadError(f"{path}: holds compressed data, as torch never writes; it is not read")
    try:
        values: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the reader refuses what is not a tensor with errors of many kinds
        raise ModelLoadError(
            f"{path}: holds more than tensors, so it is not read ({reason_of(error)})"
        ) from None
    for nest in _NESTS:
        if isinstance(values, dict) and isinstance(values.get(nest), dict):
            values = values[nest]
    if not isinstance(values, dict) or len(values) > MAX_NAMES:
        raise ModelLoadError(f"{path}: must hold tensors by name, but holds a {type(values).__name__}")
    tensors = {str(name): value for name, value in values.items() if isinstance(value, torch.Tensor)}
    if tensors:
        return tensors
    parts = {name: part for name, part in values.items() if isinstance(part, dict)}  # such as an IP-Adapter's
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.items()
        if isinstance(value, torch.Tensor)
    }
