"""Files that settings name, by their content: a job's id must not depend on where they lie."""

import errno
import hashlib
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from video_diffusion.settings.field_rules import check_path
from video_diffusion.settings.json_text import check_regular
from video_diffusion.settings.layers import nearest

NETWORK_FILES = ("*.safetensors", "config.json")
PARTS_OF_MODELS = {"vae": ("vae",), "text_encoder": ("text_encoder", "text_encoder_2")}
LORA_FOLDERS = ("motion_lora", "domain_lora")  # in a training run
MAX_ITEMS = 32
MAX_FILE_BYTES = 1 << 42


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


def network_sha256(name: str, setting: str = "") -> str | None:
    """SHA-256 of a weights file, or of a folder's configuration and safetensors; None if it is not here.

    Of a whole model's folder only the parts count that the setting takes from it.
    """
    place = Path(name).expanduser()
    if not place.is_dir():
        return content_sha256(name)
    folders = [place / part for part in PARTS_OF_MODELS.get(setting, ()) if (place / part).is_dir()] or [
        place
    ]
    files = sorted({file for each in folders for kind in NETWORK_FILES for file in each.glob(kind)})
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
    if files == [place] and place.is_dir():  # whatever it holds, it is no LoRA
        return entry
    hashes = [content_sha256(str(file)) for file in files]
    if None in hashes:
        return entry
    try:
        return f"{'+'.join(str(sha256) for sha256 in hashes)}:{float(number):g}"
    except ValueError:
        return entry


def check_items(value: object) -> tuple[str, ...]:
    """Files with what belongs to each, "PATH:WEIGHT" or "PATH=WORD", as texts; one alone is a list of one."""
    entries = (value,) if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(each, str) for each in entries):
        raise ValueError("must be a list of texts such as style.safetensors:0.8")
    if len(entries) > MAX_ITEMS:
        raise ValueError(f"must be at most {MAX_ITEMS}, not {len(entries)}")
    return tuple(str(check_path(each)) for each in entries)


# LoRAs and embeddings that prompts name.


WEIGHT_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".pth")
MAX_FOLDER_FILES = 50_000


def _weight_files(folder: Path) -> list[Path]:
    """The weights files in a folder and the folders inside it, in order; safetensors come first."""
    files = [file for file in files_below(folder) if file.suffix in WEIGHT_SUFFIXES]
    return sorted(files, key=lambda file: (WEIGHT_SUFFIXES.index(file.suffix), str(file)))


def files_below(folder: Path) -> list[Path]:
    """Everything that is no folder in a folder and the folders inside it.

    Raises:
        ValueError: There is so much that it must be another folder than was meant: a home, a disk.
    """
    found = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    files = list(islice(found, MAX_FOLDER_FILES + 1))
    if len(files) > MAX_FOLDER_FILES:
        raise ValueError(f"{folder} holds more than {MAX_FOLDER_FILES} files; name the folder itself")
    return files


def find_in_folder(folder: str, name: str) -> Path:
    """Find the LoRA that a prompt names, with or without its suffix, in a folder or in folders inside it.

    Raises:
        ValueError: There is no such file, or no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ValueError(f"lora_folder {folder} is not a folder; name one that holds LoRAs")
    files = _weight_files(place)
    for file in files:
        if name in {file.stem, file.name, file.relative_to(place).as_posix().rpartition(".")[0]}:
            return file
    known = nearest(name, [file.stem for file in files][:20]) if files else "; it holds no weights files"
    raise ValueError(f"prompt names the LoRA {name!r}, which is not in lora_folder {folder}{known}")


def embedding_files(entries: Sequence[str]) -> dict[str, str]:
    """Take "FILE", "FILE=WORD" and folders apart: the file of each word, words in lower case.

    Raises:
        ValueError: A word that no prompt can hold, or one word for two files.
    """
    found: dict[str, str] = {}
    for entry in entries:
        path, equals, word = entry.rpartition("=")
        if not equals or Path(entry).expanduser().exists():
            path, word = entry, ""
        place = Path(path).expanduser()
        if place.is_dir() and word:
            raise ValueError(
                f"embeddings has {entry}, one word for a folder; leave the word out, or name a file"
            )
        own: dict[str, str] = {}
        for file in _weight_files(place) if place.is_dir() else [place]:
            own.setdefault((word or file.stem).lower(), str(file))
        for name in [name for name in own if set(name) & set("()[]:,\\") or name != name.strip() or not name]:
            if not place.is_dir():
                raise ValueError(f"embeddings has the word {name!r}; it has no brackets, colons or commas")
            del own[name]  # a file of the folder that no prompt can name
        twice = found.keys() & own.keys()
        if twice:
            raise ValueError(f"embeddings gives the word {min(twice)!r} twice; name one of them FILE=WORD")
        found |= own
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once, however many jobs start from it, while its time and size stay.

    One that changed just now may change again within the same tick of the clock, and is not remembered.
    """
    check_regular(path)
    stat = path.stat()
    is_settled = time.time_ns() - stat.st_mtime_ns > 2 * 10**9
    return (_hashed if is_settled else _hashed.__wrapped__)(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _hashed(path: Path, changed: int, size: int) -> str:
    if not size:  # also what the system makes up as it is read: /proc/kmsg
        return hashlib.sha256(b"").hexdigest()
    if size > MAX_FILE_BYTES:  # /proc/kcore
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
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
