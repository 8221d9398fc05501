"""An IP-Adapter's file and the image encoder it reads, told by names and shapes; takes no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_diffusion.generation_settings.ip_adapter_files import encoder_folders, ip_adapter_weights
from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.json_file import read_json
from video_diffusion.loading.model_source import fetch_files, find_model
from video_diffusion.loading.weight_file import WeightFile, open_weights
from video_diffusion.loading.weight_files import StoredTensor

Kind = Literal["image", "plus", "full", "face"]
_FIRST_KEYS = "1.to_k_ip.weight"  # of the first cross attention
_IMAGE, _LAYERS = "image_proj.", "ip_adapter."


@dataclass(frozen=True)
class IpAdapterFacts:
    """What the shapes of an IP-Adapter's tensors say.

    Attributes:
        kind: "image" reads one vector of a picture, "plus" and "full" its patches, "face" an identity.
        num_tokens: That the image model sees of a picture.
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
    weights: WeightFile
    facts: IpAdapterFacts
    encoder: Path


def is_ip_adapter(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether these are the tensors of an IP-Adapter, of any kind."""
    return any(name.startswith(_IMAGE) for name in tensors) and _LAYERS + _FIRST_KEYS in tensors


def ip_adapter_facts(tensors: Mapping[str, StoredTensor], where: str) -> IpAdapterFacts:
    """Tell what an IP-Adapter is.

    Args:
        tensors: Of its file.
        where: For messages.

    Raises:
        ModelLoadError: It is none.
    """
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
            "that reads pictures, such as ip-adapter_sd15.safetensors"
        )
    if not Path(name).expanduser().exists():
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
        f"{name}: this IP-Adapter reads pictures as vectors of width {facts.image_width}, but the image "
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
    """How wide what the adapter reads of the encoder is: the picture's vector, or its patches'."""
    config: Mapping[str, Any] = read_json(folder / "config.json")
    name, usual = ("projection_dim", 512) if kind == "image" else ("hidden_size", 768)
    width = config.get(name, usual)  # transformers leaves out what is its default
    return width if isinstance(width, int) else 0
