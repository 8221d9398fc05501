"""From a name to files: models, LoRAs and IP-Adapters, here or on the hub; takes no torch."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from video_diffusion.loading.weights import (
    PICKLE_SUFFIXES,
    ModelLoadError,
    StoredTensor,
    StoredWeights,
    open_weights,
    read_json,
    refused_pickle,
)
from video_diffusion.settings.field_rules import expanded
from video_diffusion.settings.input_files import encoder_folders, ip_adapter_weights

EMBEDDED = Path(__file__).parents[1] / "embedded"
SHIPPED = {"embedded": EMBEDDED, "teacher": EMBEDDED / "teacher", "few-steps": EMBEDDED / "motion_adapter"}
"""What comes with the package: a model, and temporal layers for it that need four steps."""

_HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(/(?P<file>([\w-][\w.-]*/)*[\w-][\w.-]*\.(safetensors|ckpt|pth|pt|bin)))?"
    r"(:(?P<variant>[A-Za-z0-9_-]{1,32}))?(@(?P<revision>[\w./-]+))?"
)
_JSON = ("*.json", "*/*.json", "*/*.txt")
_WEIGHTS = (
    "{}pytorch_lora_weights.safetensors",
    "{}unet_extras.safetensors",
    "{}unet_lora.safetensors",
    "{}diffusion_pytorch_model.safetensors",
    "{}diffusion_pytorch_model-*-of-*.safetensors",
    "{}model.safetensors",
    "{}model-*-of-*.safetensors",
)
_COMPONENTS = ("", "unet/", "vae/", "text_encoder/", "text_encoder_2/", "motion_adapter/")


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies, and the exact revision if it came from the hub.

    Attributes:
        name: As it was asked for.
        folder: Of a model, an adapter, a training run or one of its checkpoints; or a single weights file.
        revision: Of the hub, if it came from there.
        variant: Of the weights that was asked for, such as "fp16"; None is the usual one.
    """

    name: str
    folder: Path
    revision: str | None = None
    variant: str | None = None

    @property
    def adapter_folder(self) -> Path:
        """A motion adapter's own place: itself, or inside a whole model, a training run or a checkpoint.

        Raises:
            ModelLoadError: A training run that has no adapter, since it has not saved one or trains a LoRA.
        """
        inside = self.folder / "motion_adapter"
        if (inside / "config.json").is_file():
            return inside
        if (self.folder / "motion_lora").is_dir():
            raise ModelLoadError(
                f"{self.name}: holds a motion LoRA, not a whole adapter; give the adapter it was trained "
                f"on as motion_adapter, and {self.folder / 'motion_lora'} as a LoRA"
            )
        if (self.folder / "metrics.jsonl").is_file() and not (self.folder / "config.json").is_file():
            raise ModelLoadError(
                f"{self.name}: a training run that has saved no motion_adapter yet; "
                "let it train until its first checkpoint"
            )
        files = sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []
        if not files or (self.folder / "config.json").is_file():
            return self.folder
        if len(files) > 1:
            raise ModelLoadError(
                f"{self.name}: holds {len(files)} weights files and no config.json; give one, such as "
                f"{self.name}/{files[0].name}"
            )
        return files[0]


def find_model(name: str) -> ModelSource:
    """Find a model, or a motion adapter, by name; the network is used for a hub id only.

    Args:
        name: "embedded", "teacher" (its temporal layers of many steps), a folder, a weights file, or a hub id
            such as "owner/model", "owner/model@revision", "owner/model:fp16" (a variant of the weights) or
            "owner/model/file.safetensors".

    Raises:
        ModelLoadError: There is no such model, or it cannot be fetched; each reason has its own sentence.

    >>> find_model("embedded").folder.name
    'embedded'
    """
    if name in SHIPPED:
        if not SHIPPED[name].is_dir():
            raise ModelLoadError(f"{SHIPPED[name]}: is not part of this installation; install it again")
        return ModelSource(name, SHIPPED[name])
    path = expanded(name)
    if path.is_dir():
        return ModelSource(name, path)
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelLoadError(refused_pickle(name))
    if path.is_file():
        return ModelSource(name, path)
    return _from_hub(name, parse_hub_id(name))


class HubId(NamedTuple):
    """A hub id taken apart."""

    repo_id: str
    file: str | None
    revision: str | None
    variant: str | None


def parse_hub_id(name: str) -> HubId:
    """Take a hub id apart."""
    hub = _HUB_ID.fullmatch(name)
    if hub is None:
        raise ModelLoadError(
            f"{name}: no such file or folder, and not a hub id such as owner/model; check the spelling"
        )
    return HubId(hub["id"], hub["file"], hub["revision"], hub["variant"])


def _from_hub(name: str, hub: HubId) -> ModelSource:
    """Fetch from the hub what the loader reads, or take it from the cache if HF_HUB_OFFLINE is set."""

    def fetch(variant: str | None) -> Path:
        names = [pattern.format(part) for part in _COMPONENTS for pattern in _WEIGHTS]
        if variant is not None:  # of shards, older files have the variant after the number, newer ones before
            names = [
                *(each.replace(".safetensors", f".{variant}.safetensors") for each in names),
                *(each.replace("-*-of", f".{variant}-*-of") for each in names if "-*-of" in each),
            ]
        return fetch_files(name, [*_JSON, *names])

    repo_id, file, revision, variant = hub
    if file is not None:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  only a hub id needs the client

        with _hub_reasons(name, file, revision):
            path = Path(hf_hub_download(repo_id, file, revision=revision))
        return ModelSource(name, path, path.parents[file.count("/")].name)
    folder = fetch(variant)
    if variant is None and not list(folder.rglob("*.safetensors")):
        folder = fetch("fp16")
    return ModelSource(name, folder, folder.name, variant)


def find_pickle(name: str) -> Path | None:
    """Find a pickle by its path or by its name on the hub, without reading it; None if it is none."""
    path = expanded(name)
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return None
    return path if path.is_file() else _from_hub(name, parse_hub_id(name)).folder


def fetch_files(name: str, patterns: Sequence[str]) -> Path:
    """Fetch some files of a hub repository, or take them from the cache if HF_HUB_OFFLINE is set."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  see above

    repo_id, file, revision, _ = parse_hub_id(name)
    with _hub_reasons(name, file, revision):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def _hub_reasons(name: str, file: str | None, revision: str | None) -> Iterator[None]:
    """Say in one line why the hub's client could not give something."""
    from huggingface_hub import errors  # noqa: PLC0415  see above

    try:
        yield
        return
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            reason = _not_cached(error)
        else:
            reason = f"has no file {file}; choose one that its page lists"
    except errors.GatedRepoError:
        reason = "is gated; accept its terms on the hub and log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"has no revision {revision}; choose one that its page lists"
    except errors.RepositoryNotFoundError:
        reason = (
            "does not exist on the hub, or is private; check the spelling, or log in with `hf auth login`"
        )
    except errors.OfflineModeIsEnabled as error:
        reason = _not_cached(error)
    except errors.HfHubHTTPError as error:
        reason = f"cannot be fetched ({str(error).splitlines()[0]}); try again later, or give a folder"
    raise ModelLoadError(f"{name}: no such folder here, and as a hub id it {reason}")


def _not_cached(error: Exception) -> str:
    from huggingface_hub import constants  # noqa: PLC0415

    where = f"is not whole in the local cache ({os.fspath(constants.HF_HUB_CACHE)})"
    if constants.HF_HUB_OFFLINE:
        return f"{where} and HF_HUB_OFFLINE is set; fetch it where there is network, or give a folder"
    cause = re.sub(r"\[Errno -?\d+\] ", "", str(error.__cause__ or error).splitlines()[0])
    return f"{where} and the hub cannot be reached ({cause}); check the network, or give a folder"


# From the name of a LoRA to its file; takes no torch.


LORA_FILES = ("pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors")
_RUN_FOLDERS = ("motion_lora", "domain_lora")


def find_lora(name: str) -> Path:
    """Find a LoRA's file.

    Args:
        name: A file; a folder with one, such as a training run or its checkpoint; or a hub id.

    Raises:
        ModelLoadError: There is none, or the folder holds several.
    """
    place = find_model(name).folder
    if place.is_file():
        return place
    for folder in (place, *(place / inside for inside in _RUN_FOLDERS)):
        named = [folder / file for file in LORA_FILES if (folder / file).is_file()]
        files = named or sorted(folder.glob("*.safetensors"))
        if len(files) == 1:
            return files[0]
        if files:
            raise ModelLoadError(f"{name}: holds {len(files)} weights files; give one, such as {files[0]}")
    raise ModelLoadError(f"{name}: no safetensors file of a LoRA there; give the file itself")


def parse_lora(text: str) -> tuple[str, float]:
    """Take "PATH" or "PATH:WEIGHT" apart; a weight that is not given is 1.

    Raises:
        ValueError: The weight is not a number from -10 to 10.

    >>> parse_lora("style.safetensors:0.8")
    ('style.safetensors', 0.8)
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        return text, 1.0  # the colon belongs to the path
    if not -10 <= weight <= 10 or not path:
        raise ValueError(f"loras must be PATH or PATH:WEIGHT with a weight from -10 to 10, not {text!r}")
    return path, weight


# An IP-Adapter's file and the image encoder it reads, told by names and shapes; takes no torch.


Kind = Literal["image", "plus", "full", "face"]
_FIRST_KEYS = "1.to_k_ip.weight"  # of the first cross attention
_IMAGE, _LAYERS = "image_proj.", "ip_adapter."


@dataclass(frozen=True)
class IpAdapterFacts:
    """What the shapes of an IP-Adapter's tensors say.

    Attributes:
        kind: "image" reads one vector of an image, "plus" and "full" its patches, "face" an identity.
        num_tokens: That the image model sees of an image.
        text_width: Of the image model's cross attention.
        image_width: Of what the image encoder gives.
        num_layers: Of cross attention.
    """

    kind: Kind
    num_tokens: int
    text_width: int
    image_width: int
    num_layers: int


@dataclass(frozen=True)
class IpAdapterSource:
    """An IP-Adapter's file with the folder of its image encoder.

    Attributes:
        name: As it was asked for.
        weights: The file.
        facts: What it holds.
        encoder: Holds config.json and safetensors of a `CLIPVisionModelWithProjection`.
    """

    name: str
    weights: StoredWeights
    facts: IpAdapterFacts
    encoder: Path


def is_ip_adapter(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether these are the tensors of an IP-Adapter, of any kind."""
    return any(name.startswith(_IMAGE) for name in tensors) and _LAYERS + _FIRST_KEYS in tensors


def ip_adapter_facts(tensors: Mapping[str, StoredTensor], where: str) -> IpAdapterFacts:
    """Tell what an IP-Adapter is."""
    if not is_ip_adapter(tensors):
        raise ModelLoadError(
            f"{where}: holds no IP-Adapter (tensors image_proj.… and ip_adapter.…); give one such as "
            "ip-adapter_sd15.safetensors"
        )
    shapes = {
        name.removeprefix(_IMAGE): tensor.shape for name, tensor in tensors.items() if name.startswith(_IMAGE)
    }
    num_layers = sum(name.startswith(_LAYERS) and name.endswith(".to_k_ip.weight") for name in tensors)
    kind: Kind
    try:
        text_width = tensors[_LAYERS + _FIRST_KEYS].shape[1]
        if "proj.weight" in shapes:
            rows, image_width = shapes["proj.weight"]
            kind, num_tokens = "image", rows // text_width
            if rows != 4 * text_width:  # what diffusers takes for granted
                raise ValueError
        elif "proj.3.weight" in shapes:  # 256 patches and the class token of ViT-L, ViT-H or ViT-bigG at 224
            kind, num_tokens, image_width = "full", 257, shapes["proj.0.weight"][0]
        elif "latents" in shapes:
            kind, num_tokens, image_width = "plus", shapes["latents"][1], shapes["proj_in.weight"][1]
        else:
            kind, num_tokens, image_width = "face", 4, shapes["proj.0.weight"][1]
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        raise ModelLoadError(f"{where}: its tensors have other shapes than an IP-Adapter's") from None
    return IpAdapterFacts(kind, num_tokens, text_width, image_width, num_layers)


def find_ip_adapter(name: str) -> IpAdapterSource:
    """Find an IP-Adapter and the image encoder that goes with it; the network is used for a hub id only.

    Args:
        name: A file, a folder with one, or a file on the hub such as
            "h94/IP-Adapter/models/ip-adapter_sd15.safetensors". The encoder lies in a folder `image_encoder`
            beside the file; see `encoder_folders`.

    Raises:
        ModelLoadError: The file is missing or no IP-Adapter, or there is no encoder of the right width.
    """
    path = _weights_file(name)
    weights = open_weights(path)
    facts = ip_adapter_facts(weights.tensors, str(path))
    if facts.kind == "face":
        raise ModelLoadError(
            f"{path}: this IP-Adapter reads face identities (FaceID), which nothing here computes; take one "
            "that reads images, such as ip-adapter_sd15.safetensors"
        )
    if not expanded(name).exists():
        _fetch_encoder(name, path, facts)
    folders = encoder_folders(path)
    widths = {folder: _encoder_width(folder, facts.kind) for folder in folders}
    fitting = [folder for folder, width in widths.items() if width == facts.image_width]
    if fitting:
        return IpAdapterSource(name, weights, facts, fitting[0])
    place = path.parent / "image_encoder"
    if not folders:
        raise ModelLoadError(
            f"{name}: there is no image encoder beside it, a folder with config.json and model.safetensors; "
            f"copy the one it was trained with to {place}"
        )
    given = ", ".join(f"{width} ({folder})" for folder, width in widths.items())
    raise ModelLoadError(
        f"{name}: this IP-Adapter reads images as vectors of width {facts.image_width}, but the image "
        f"encoder gives {given}; copy the one it was trained with to {place}"
    )


def _weights_file(name: str) -> Path:
    place = find_model(name).folder
    files = ip_adapter_weights(place)
    if len(files) == 1:
        return files[0]
    what = f"holds {len(files)} safetensors files" if files else "holds no safetensors file"
    example = files[0].name if files else "models/ip-adapter_sd15.safetensors"
    raise ModelLoadError(f"{name}: {what}; give the IP-Adapter's file itself, such as {name}/{example}")


def _fetch_encoder(name: str, path: Path, facts: IpAdapterFacts) -> None:
    """Fetch the image encoder that goes with a file of the hub, and no other: it is a few gigabytes."""
    folder = fetch_files(name, ["*image_encoder/config.json"])
    for place in encoder_folders(path):
        if _encoder_width(place, facts.kind) == facts.image_width:
            inside = place.relative_to(folder).as_posix()
            fetch_files(name, [f"{inside}/config.json", f"{inside}/model.safetensors"])
            return


def _encoder_width(folder: Path, kind: Kind) -> int:
    """How wide what the adapter reads of the encoder is: the image's vector, or its patches'."""
    config: Mapping[str, Any] = read_json(folder / "config.json")
    name, usual = ("projection_dim", 512) if kind == "image" else ("hidden_size", 768)
    width = config.get(name, usual)  # transformers leaves out what is its default
    return width if isinstance(width, int) else 0
