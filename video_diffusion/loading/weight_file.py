"""One weights file, safetensors or, where it is trusted, a pickle: what it holds, and its tensors."""

import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.weight_files import (
    PICKLE_SUFFIXES,
    StoredTensor,
    read_header,
    read_metadata,
)

if TYPE_CHECKING:
    from torch import Tensor

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
        """Read the tensors, on the CPU, as they are stored.

        Args:
            names: Which ones; None means all.

        Raises:
            ModelLoadError: One of them holds NaN or infinity, or is no floating-point tensor.
        """
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
    """Look at a weights file.

    Args:
        path: A `.safetensors` file; or a `.ckpt`, `.pt`, `.pth` or `.bin`, if allowed.
        allow_pickle: Whether a pickle is read, through torch's reader that makes tensors and runs no code.

    Raises:
        ModelLoadError: No such file, one that is not whole, or a pickle that is not allowed or holds more
            than tensors.
    """
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
