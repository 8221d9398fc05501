"""Files that a clip's settings name beside its model, and their content, which is what counts."""

from collections.abc import Mapping
from typing import Any

from video_diffusion.generation_settings.input_files import content_sha256, network_sha256
from video_diffusion.generation_settings.ip_adapter_files import ip_adapter_sha256s

# Settings that name a file the clip starts from.
INPUT_FIELDS = ("init_video", "init_image", "noise_video", "control_video")

# Likewise, with a file for each of some frames.
FRAME_INPUT_FIELDS = ("ip_image", "sparse_images")

# Settings that name a network beside the model.
NETWORK_FIELDS = ("ip_adapter", "controlnet", "sparsectrl")


def input_files(settings: Any) -> dict[str, str]:
    """Pictures and videos that a clip starts from, by the setting that names them."""
    paths = {name: getattr(settings, name) for name in INPUT_FIELDS}
    for name in FRAME_INPUT_FIELDS:
        paths |= {f"{name}.{frame}": path for frame, path in getattr(settings, name)}
    return {name: path for name, path in paths.items() if path is not None}


def input_sha256s(settings: Any) -> dict[str, str]:
    """Hashes of these files and of networks' weights, as far as they can be read."""
    hashes = {name: content_sha256(path) for name, path in input_files(settings).items()}
    networks = {name: getattr(settings, name) for name in NETWORK_FIELDS}
    hashes |= {name: network_sha256(path) for name, path in networks.items() if path is not None}
    if settings.ip_adapter is not None:  # and of its image encoder
        hashes |= ip_adapter_sha256s(settings.ip_adapter)
    return {name: sha256 for name, sha256 in hashes.items() if sha256 is not None}


def content_in_place_of_paths(values: Mapping[str, Any], sha256s: Mapping[str, str]) -> dict[str, Any]:
    """A clip's settings with hashes where they name files, so that it does not matter where these lie.

    Args:
        values: settings as plain JSON values.
        sha256s: see `input_sha256s`; a file without keeps its path.
    """
    by_frame = {
        name: {frame: sha256s.get(f"{name}.{frame}", path) for frame, path in values[name].items()}
        for name in FRAME_INPUT_FIELDS
        if name in values
    }
    return {**values, **sha256s, **by_frame}
