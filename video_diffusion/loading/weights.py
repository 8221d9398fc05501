"""Weight and configuration files looked at before anything is loaded; takes no torch."""

import json
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class ModelLoadError(ValueError):
    """A model folder, its configuration or its weights cannot be used; the message is one line."""

    exit_code = 3


class DeviceError(RuntimeError):
    """This machine has no such device; the message lists what it has."""

    exit_code = 4


# Configuration files of models, which anybody may have written; takes no torch.


MAX_JSON_BYTES = 10_000_000


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration file."""
    if not file.is_file():
        raise ModelLoadError(f"{file}: no such file; this is not a whole model folder")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ModelLoadError(f"{file}: larger than {MAX_JSON_BYTES} bytes, so not a configuration")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{file}: not JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise ModelLoadError(f"{file}: must hold a mapping, but holds a {type(values).__name__}")
    return values


# Weight files looked at before anything is loaded: safetensors only, whole, with the tensors expected.
#
# The libraries are silent about most of what is checked here: they fill in missing tensors at random, leave
# out surplus ones, read integers as weights, and say of a damaged file only that it could not be loaded.


PICKLE_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}
MAX_HEADER_BYTES = 100_000_000  # what the safetensors library itself accepts
NUM_NAMED = 5

# How old diffusers checkpoints (SD 1.x autoencoders) call the layers of an attention.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class StoredTensor:
    """What a file says about one of its tensors."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of one component.

    Attributes:
        folder: Where they are; or the one file that holds them.
        tensors: What the files say of each.
        variant: Under which variant name they are stored; None is the plain one.
        described_by: What says which tensors there must be.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    variant: str | None
    described_by: str = "config.json"


def find_weights(folder: Path, stem: str, wanted: str | None = None) -> StoredWeights:
    """Find a component's safetensors, one file or shards, and read what they hold."""
    for variant in (None, "fp16") if wanted is None else (wanted,):
        name = stem if variant is None else f"{stem}.{variant}"
        plain = folder / f"{name}.safetensors"
        index = folder / f"{stem}.safetensors.index{'' if variant is None else f'.{variant}'}.json"
        if plain.is_file():
            return StoredWeights(folder, read_header(plain), variant)
        if index.is_file():
            shards = [read_header(folder / shard) for shard in _shards(index)]
            return StoredWeights(folder, {k: v for shard in shards for k, v in shard.items()}, variant)
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


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read which tensors a safetensors file holds, having checked that it is one and is whole."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(64)
        what = _something_else(start)
        if what:
            raise ModelLoadError(f"{file}: must be a safetensors file, but is {what}")
        header_size = int.from_bytes(start[:8], "little")
        if size < 8 or header_size > min(size - 8, MAX_HEADER_BYTES):
            raise ModelLoadError(
                f"{file}: not a whole safetensors file: it has {size} bytes and claims a header of "
                f"{header_size}; download it again"
            )
        stream.seek(8)
        header = _parsed(stream.read(header_size), file)
    try:
        stored = {
            name: StoredTensor(str(entry["dtype"]), tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (KeyError, TypeError, IndexError):
        raise ModelLoadError(f"{file}: its header is damaged; download it again") from None
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise ModelLoadError(f"{file}: has {size} bytes but should have {expected}; download it again")
    return stored


def read_metadata(file: Path) -> dict[str, str]:
    """Read the texts that a safetensors file carries beside its tensors; anybody may have written them."""
    with file.open("rb") as stream:
        size = min(int.from_bytes(stream.read(8), "little"), MAX_HEADER_BYTES)
        texts = _parsed(stream.read(size), file).get("__metadata__", {})
    return {str(key): str(value) for key, value in texts.items()} if isinstance(texts, dict) else {}


def compare_weights(stored: StoredWeights, model: Any, allow_extra: bool) -> None:
    """Check that a component's files hold exactly the floating-point tensors that its model has."""
    found = {present_component_name(name): tensor for name, tensor in stored.tensors.items()}
    expected = {
        present_component_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    for name, shape in expected.items():
        if name in found and found[name].shape != shape:
            raise ModelLoadError(
                f"{stored.folder}: {name} must have the shape {shape} that {stored.described_by} says, but "
                f"is stored with {found[name].shape}; the weights belong to another base model or number of "
                "frames"
            )
    missing = [name for name in expected if name not in found]
    if missing:
        raise ModelLoadError(f"{stored.folder}: {_named(missing)} missing; the files belong to another model")
    surplus = [name for name in found if name not in expected and not name.endswith("position_ids")]
    if surplus and not allow_extra:
        raise ModelLoadError(
            f"{stored.folder}: {_named(surplus)} not part of the model that {stored.described_by} "
            "describes; allow_extra_weights leaves them out"
        )
    for name in expected:
        if found[name].dtype not in FLOAT_TYPES:
            raise ModelLoadError(
                f"{stored.folder}: {name} must be floating point, but is stored as {found[name].dtype}; "
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


def _something_else(start: bytes) -> str | None:
    """Name a file by its first bytes, if they are those of what is usually found in place of weights."""
    if not start:
        return "empty; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; run `git lfs pull` in its repository"
    if start.lstrip()[:1] == b"<":
        return "a web page; download the file itself"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return "a pickle that could run code; convert it to safetensors where you trust it"
    return None


def _parsed(text: bytes, file: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ModelLoadError(f"{file}: its header is damaged; download it again")
    return header


def _shards(index: Path) -> list[str]:
    names = sorted(set(_parsed(index.read_bytes(), index).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ModelLoadError(
                f"{index}: names {name!r}, which is not a file beside it; download the folder again"
            )
    return names


# One weights file, safetensors or, where it is trusted, a pickle: what it holds, and its tensors.


MAX_NAMES = 100_000
_NESTS = ("state_dict", "module", "controlnet")


@dataclass(frozen=True)
class WeightFile:
    """One weights file that was looked at.

    Attributes:
        path: Where it is.
        tensors: What it says of each of its tensors.
        metadata: Texts that it carries; written by anybody.
        unpickled: The tensors of a pickle, which cannot be looked at without reading them.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    unpickled: "Mapping[str, Tensor] | None" = None

    def load(self, names: Collection[str] | None = None) -> "dict[str, Tensor]":
        """Read the tensors, on the CPU, as they are stored."""
        import torch  # noqa: PLC0415  files are looked at without torch
        from safetensors import safe_open  # noqa: PLC0415

        wanted = list(self.tensors if names is None else names)
        if self.unpickled is None:
            with safe_open(self.path, "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in wanted}
        else:
            tensors = {name: self.unpickled[name] for name in wanted}
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise ModelLoadError(
                    f"{self.path}: {name} must be floating point, but is stored as {tensor.dtype}; "
                    "save the weights as float32, float16 or bfloat16"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ModelLoadError(f"{self.path}: {name} holds NaN or infinity; the file is damaged")
        return tensors


def open_weights(path: Path | str, *, allow_pickle: bool = False) -> WeightFile:
    """Look at a weights file."""
    path = Path(path)
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file; check the spelling")
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return WeightFile(path, read_header(path), read_metadata(path))
    if not allow_pickle:
        raise ModelLoadError(
            f"{path}: a {path.suffix} file is a pickle that could run code; convert it once with "
            f"`video-diffusion convert {path.name} {path.with_suffix('.safetensors').name} --allow-pickle`, "
            "which reads tensors only"
        )
    tensors = _unpickled(path)
    stored = {
        name: StoredTensor(_DTYPES.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    return WeightFile(path, stored, {}, tensors)


_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
}


def _unpickled(path: Path) -> "dict[str, Tensor]":
    import torch  # noqa: PLC0415  see above

    _check_zip(path)
    try:
        values: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the reader refuses what is not a tensor with errors of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(f"{path}: holds more than tensors, so it is not read ({reason})") from None
    for nest in _NESTS:
        if isinstance(values, dict) and isinstance(values.get(nest), dict):
            values = values[nest]
    if not isinstance(values, dict) or len(values) > MAX_NAMES:
        raise ModelLoadError(f"{path}: must hold tensors by name, but holds a {type(values).__name__}")
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _check_zip(path: Path) -> None:
    """Refuse what would be larger in memory than on the disk, and what torch wrote before it wrote zips."""
    if not zipfile.is_zipfile(path):
        raise ModelLoadError(
            f"{path}: not a file as torch has written them since version 1.6; it is damaged, or must be "
            "saved again with a newer torch"
        )
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        size = sum(entry.file_size for entry in archive.infolist())
    if packed or size > path.stat().st_size:
        raise ModelLoadError(f"{path}: holds compressed data, as torch never writes; it is not read")
