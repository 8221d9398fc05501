"""Folders of captioned clips: the check that lists them, the manifest, and the clips cut from them.

`read_manifest` and `ClipDataset` are the way in; torch is imported only for what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from video_diffusion.training.data.manifest import (
    ClipEntry,
    ManifestError,
    manifest_sha256,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from video_diffusion.training.data.dataset import ClipDataset, ClipOrder, Draw

__all__ = [
    "ClipDataset",
    "ClipEntry",
    "ClipOrder",
    "Draw",
    "ManifestError",
    "manifest_sha256",
    "read_manifest",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name in {"ClipDataset", "ClipOrder", "Draw"}:
        return getattr(import_module(f"{__name__}.dataset"), name)
    raise AttributeError(f"module 'video_diffusion.training.data' has no attribute {name!r}")
