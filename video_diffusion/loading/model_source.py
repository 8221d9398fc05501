"""From the name of a model to a place on this machine: the embedded one, a folder, a file, or a hub id."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.weight_files import PICKLE_SUFFIXES

EMBEDDED = Path(__file__).parents[1] / "embedded"

_HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(/(?P<file>([\w-][\w.-]*/)*[\w-][\w.-]*\.(safetensors|ckpt|pth|pt|bin)))?"
    r"(:(?P<variant>[A-Za-z0-9_-]{1,32}))?(@(?P<revision>[\w./-]+))?"
)
_JSON = ("*.json", "*/*.json", "*/*.txt")
_WEIGHTS = (
    "{}pytorch_lora_weights.safetensors",
    "{}unet_extras.safetensors",
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
        name: "embedded", a folder, a weights file, or a hub id such as "owner/model", "owner/model@revision",
            "owner/model:fp16" (a variant of the weights) or "owner/model/file.safetensors".

    Raises:
        ModelLoadError: There is no such model, or it cannot be fetched; each reason has its own sentence.
    """
    if name == "embedded":
        if not (EMBEDDED / "model_index.json").is_file():
            raise ModelLoadError(
                f"{EMBEDDED}: the embedded model is not part of this installation; install it again"
            )
        return ModelSource(name, EMBEDDED)
    path = Path(name).expanduser()
    if path.is_dir():
        return ModelSource(name, path)
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelLoadError(
            f"{name}: a {path.suffix} file is a pickle that could run code; convert it once with "
            f"`video-diffusion convert {name} {path.with_suffix('.safetensors').name} --allow-pickle`, "
            "which reads tensors only"
        )
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
    """Take a hub id apart.

    Raises:
        ModelLoadError: It is none.
    """
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
    """Find a pickle by its path or by its name on the hub, without reading it; None if the name is of none.

    Raises:
        ModelLoadError: It cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return None
    return path if path.is_file() else _from_hub(name, parse_hub_id(name)).folder


def fetch_files(name: str, patterns: Sequence[str]) -> Path:
    """Fetch some files of a hub repository, or take them from the cache if HF_HUB_OFFLINE is set.

    Args:
        name: A hub id; a file that it names does not matter.
        patterns: Of the files' paths in the repository.

    Returns:
        The folder of the repository in the cache; files that the hub does not have are not in it.

    Raises:
        ModelLoadError: It cannot be fetched; each reason has its own sentence.
    """
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
    cause = str(error.__cause__ or error).splitlines()[0]
    return f"{where} and the hub cannot be reached ({cause}); check the network, or give a folder"
