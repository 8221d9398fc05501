"""Files that settings name, by their content: a job's id must not depend on where they lie."""

import hashlib
import time
from functools import lru_cache
from pathlib import Path

from video_diffusion.settings.field_rules import check_path

LORA_FOLDERS = ("motion_lora", "domain_lora")  # in a training run
MAX_LORAS = 32


def content_sha256(path: str) -> str | None:
    """SHA-256 of a file, or of names and contents of a folder's files; None if it cannot be read."""
    place = Path(path).expanduser()
    try:
        if place.is_file():
            return file_sha256(place)
        files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
        lines = "".join(f"{file.name} {file_sha256(file)}\n" for file in files)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    except (OSError, ValueError):
        return None


def is_folder(path: str) -> bool:
    """Tell whether a video is a folder of images, which has no rate of its own."""
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, ValueError):
        return False


def network_sha256(name: str) -> str | None:
    """SHA-256 of a weights file, or of a folder's configuration and safetensors; None if it is not here."""
    place = Path(name).expanduser()
    if not place.is_dir():
        return content_sha256(name)
    files = sorted({*place.glob("*.safetensors"), *place.glob("config.json")})
    hashes = [(file.name, content_sha256(str(file))) for file in files]
    if not files or None in dict(hashes).values():
        return None
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in hashes).encode()).hexdigest()


def lora_identity(entry: str) -> str:
    """Put the content of the weights in place of the path in "PATH:WEIGHT", where it can be read.

    A folder's weights are those directly in it, or in a training run's own folder for them.
    """
    path, colon, number = entry.rpartition(":")
    if not colon or Path(entry).exists() or not Path(path).exists():
        path, number = entry, "1"
    place = Path(path)
    inside = [place, *(place / name for name in LORA_FOLDERS)] if place.is_dir() else []
    files = next((found for folder in inside if (found := sorted(folder.glob("*.safetensors")))), [place])
    hashes = [content_sha256(str(file)) for file in files]
    if None in hashes:
        return entry
    try:
        return f"{'+'.join(str(sha256) for sha256 in hashes)}:{float(number):g}"
    except ValueError:
        return entry


def check_loras(value: object) -> tuple[str, ...]:
    """LoRAs as texts "PATH" or "PATH:WEIGHT"; one text alone is one LoRA."""
    entries = (value,) if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(each, str) for each in entries):
        raise ValueError("must be a list of texts such as style.safetensors:0.8")
    if len(entries) > MAX_LORAS:
        raise ValueError(f"must be at most {MAX_LORAS}, not {len(entries)}")
    return tuple(str(check_path(each)) for each in entries)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once, however many jobs start from it, while its time and size stay.

    One that changed just now may change again within the same tick of the clock, and is not remembered.
    """
    stat = path.stat()
    is_settled = time.time_ns() - stat.st_mtime_ns > 2 * 10**9
    return (_hashed if is_settled else _hashed.__wrapped__)(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _hashed(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Where an IP-Adapter's files lie on this machine, and what is in them as part of a job's id.


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
