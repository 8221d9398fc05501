"""Encodings kept on disk by what they were made from: latents of clips, embeddings of captions.

The name of an entry is a hash of its source and of its encoder, so an entry never becomes wrong: whatever
changes, changes the name. Entries appear whole or not at all; one that the disk has damaged is made anew.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from video_diffusion.io import write_bytes

_FORMAT = 1


class LatentCache:
    """Tensors by key, in one folder, for any number of processes at once.

    ```python
    cache = LatentCache(folder, encoder=module_sha256(vae), dtype="float32")
    latents = cache.get_or_encode(item["key"], lambda: encode(item["frames"]))
    ```

    Args:
        folder: made when the first entry is written.
        encoder: what encodes, exactly: `module_sha256` of the VAE, or of the text encoder and its tokenizer's
            name together.
        dtype: what the encoder computes in, which decides the last bits.
    """

    def __init__(self, folder: Path | str, encoder: str, dtype: str = "float32") -> None:
        self.folder, self._facts = Path(folder), [_FORMAT, encoder, dtype]

    def get_or_encode(self, key: str, encode: Callable[[], Tensor]) -> Tensor:
        """The kept tensor, or else what `encode` returns, which is then kept: the same bits, on the CPU.

        Raises:
            OSError: no space, no permission.
        """
        kept = self.get(key)
        if kept is None:
            kept = encode().detach().cpu().contiguous()
            self.put(key, kept)
        return kept

    def get(self, key: str) -> Tensor | None:
        """The tensor under a key; None where there is none, or only a damaged one."""
        path, name = self._place(key)
        with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor("value")
            if file.metadata() == {"name": name, "sha256": _sha256(tensor)}:
                return tensor
        return None

    def put(self, key: str, value: Tensor) -> None:
        """Keeps a tensor under a key, synced to disk.

        Raises:
            OSError: no space, no permission; nothing is left behind.
        """
        path, name = self._place(key)
        value = value.detach().cpu().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({"value": value}, {"name": name, "sha256": _sha256(value)}))

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry, without reading it; for `ClipDataset`'s `is_cached`."""
        return self._place(key)[0].is_file()

    def _place(self, key: str) -> tuple[Path, str]:
        """File and name of an entry; folders of a 256th each keep directories small."""
        name = hashlib.sha256(json.dumps([*self._facts, key]).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors", name


def module_sha256(module: nn.Module, *further: Any) -> str:
    """SHA-256 of a module's class, tensors (names, types, shapes, values) and configuration.

    Args:
        module: its `config`, if it has one, counts too: it holds scaling factors.
        further: whatever else decides the encoding, as JSON values.
    """
    config = getattr(module, "config", {})
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {name: value for name, value in plain.items() if not name.startswith("_")}
    facts = [type(module).__name__, kept, further]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def _sha256(tensor: Tensor) -> str:
    facts = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(facts + _bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
