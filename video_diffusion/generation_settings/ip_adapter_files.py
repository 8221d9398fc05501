"""Where an IP-Adapter's files lie on this machine, and what is in them as part of a job's id."""

import hashlib
from pathlib import Path

from video_diffusion.generation_settings.input_files import content_sha256


def ip_adapter_weights(place: Path) -> list[Path]:
    """The weights files that may be meant: the file itself, or those directly in a folder."""
    return [place] if place.is_file() else sorted(place.glob("*.safetensors"))


def encoder_folders(weights: Path) -> list[Path]:
    """Folders that may hold the image encoder of an IP-Adapter's file, as its publishers lay them out.

    Beside it, beside its folder, or in the folder `models` beside that: adapters for SDXL that read ViT-H lie
    in `sdxl_models/` and their encoder in `models/`.
    """
    above = weights.parent.parent
    places = (weights.parent / "image_encoder", above / "image_encoder", above / "models" / "image_encoder")
    return list(dict.fromkeys(place for place in places if (place / "config.json").is_file()))


def ip_adapter_sha256s(name: str) -> dict[str, str]:
    """Hashes of an adapter's file and of the encoders beside it; empty if they are not here."""
    weights = ip_adapter_weights(Path(name).expanduser())
    if len(weights) != 1:
        return {}
    files = {"ip_adapter": content_sha256(str(weights[0]))}
    encoders = [content_sha256(str(folder)) for folder in encoder_folders(weights[0])]
    if len(encoders) == 1:
        files["ip_adapter.image_encoder"] = encoders[0]
    elif encoders:
        text = " ".join(map(str, encoders))
        files["ip_adapter.image_encoder"] = hashlib.sha256(text.encode()).hexdigest()
    return {part: sha256 for part, sha256 in files.items() if sha256 is not None}
