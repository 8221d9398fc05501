"""Published models that are known to fit together, by short names; takes no torch and asks no network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from video_diffusion.loading.sources import find_model, find_pickle, parse_hub_id

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
XL = "stabilityai/stable-diffusion-xl-base-1.0"
_LONG = "Lightricks/LongAnimateDiff/lt_long_mm_16_64_frames_v1.1.ckpt"
_SD1_DOWNLOAD, _XL_DOWNLOAD = 4.3, 13.9  # GB in float32: U-Net, text encoders, autoencoder
_SD1_NUMBERS, _XL_NUMBERS = 1.07, 3.47  # thousand million parameters of these

_SD1_LARGEST, _XL_LARGEST = 0.86 + 0.45, 2.57 + 0.24  # U-Net and temporal layers, which compute together
HEADROOM = 1.5

CacheState = Literal["yes", "in part", "no"]
Fit = Literal["yes", "with --low-memory", "no"]


@dataclass(frozen=True)
class CatalogueEntry:
    """An image model with temporal layers for it.

    Attributes:
        title: For people.
        model: Hub id of the image model.
        motion_adapter: Hub id of the temporal layers, or of one file with them; or the file that a pickle is
            converted to.
        download_gb: Of both, about, in 10^9 bytes.
        weights_gb: Memory that all weights take in float16, about; what a clip needs comes on top.
        note: What to know before one takes it.
        pickle: Hub name of the file that `motion_adapter` is converted from; empty if there is no need.
    """

    title: str
    model: str
    motion_adapter: str
    download_gb: float
    weights_gb: float
    note: str = ""
    pickle: str = ""

    @property
    def hub_names(self) -> tuple[str, str]:
        """What is fetched: the image model, and the temporal layers as they are published."""
        return self.model, self.pickle or self.motion_adapter


def _sd1(
    title: str, adapter: str, adapter_gb: float, numbers: float, note: str = "", pickle: str = ""
) -> CatalogueEntry:
    download, weights = round(_SD1_DOWNLOAD + adapter_gb, 1), round(2 * (_SD1_NUMBERS + numbers), 1)
    return CatalogueEntry(title, SD1, adapter, download, weights, note, pickle)


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "animatediff": _sd1("AnimateDiff v3", "guoyww/animatediff-motion-adapter-v1-5-3", 1.7, 0.42),
    "animatediff-v2": _sd1(
        "AnimateDiff v2",
        "guoyww/animatediff-motion-adapter-v1-5-2",
        1.8,
        0.45,
        "motion LoRAs are made for it",
    ),
    "animatediff-v1": _sd1("AnimateDiff v1", "guoyww/animatediff-motion-adapter-v1-5", 1.7, 0.42),
    "long-animatediff": _sd1(
        "LongAnimateDiff, 16 to 64 frames",
        "long-animatediff.safetensors",
        1.8,
        0.45,
        f"once: video-diffusion convert {_LONG} long-animatediff.safetensors --allow-pickle",
        _LONG,
    ),
    "pia": _sd1(
        "PIA, which animates an image",
        "openmmlab/PIA-condition-adapter",
        1.8,
        0.45,
        "needs --init-image IMAGE",
    ),
    "animatelcm": _sd1(
        "AnimateLCM, 4 to 8 steps", "wangfuyun/AnimateLCM", 1.8, 0.45, "comes with a LoRA for the image model"
    ),
    "lightning": _sd1(
        "AnimateDiff-Lightning, 4 steps",
        "ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors",
        0.9,
        0.45,
        "best with a stylised image model",
    ),
    "animatediff-sdxl": CatalogueEntry(
        "AnimateDiff SDXL-beta",
        XL,
        "guoyww/animatediff-motion-adapter-sdxl-beta",
        round(_XL_DOWNLOAD + 1.0, 1),
        round(2 * (_XL_NUMBERS + 0.24), 1),
        "a beta; its clips are less steady than those of v3",
    ),
    "hotshot-xl": CatalogueEntry(
        "Hotshot-XL, 8 frames",
        "hotshotco/SDXL-512",
        "hotshotco/Hotshot-XL/hsxl_temporal_layers.f16.safetensors",
        round(_XL_DOWNLOAD + 0.5, 1),
        round(2 * (_XL_NUMBERS + 0.24), 1),
    ),
}


def what_fits(entry: CatalogueEntry, memory_gb: float, is_gpu: bool) -> Fit:
    """Estimate whether a model fits into memory: its weights, and half as much again for what a clip needs.

    A rule of thumb for 16 frames at the model's own size, not a measurement.
    """
    scale = HEADROOM if is_gpu else 2 * HEADROOM
    if scale * entry.weights_gb <= memory_gb:
        return "yes"
    largest = 2 * (_XL_LARGEST if entry.weights_gb > 2 * _XL_NUMBERS else _SD1_LARGEST)
    return "with --low-memory" if is_gpu and scale * largest <= memory_gb else "no"


def catalogue_entry(name: str) -> CatalogueEntry:
    """Look an entry up."""
    if name not in CATALOGUE:
        raise ValueError(f"NAME must be one of {', '.join(CATALOGUE)}, not {name!r}")
    return CATALOGUE[name]


def cache_state(hub_name: str) -> CacheState:
    """Whether a hub model or file lies in the local cache; the network is never asked."""
    # only this needs the hub's client
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    repo_id, file, revision, _ = parse_hub_id(hub_name)
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        started = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
        return "in part" if started.is_dir() else "no"
    if file is not None:
        return "yes" if (folder / file).is_file() else "no"
    return "yes" if _is_whole(folder) else "in part"


def download(entry: CatalogueEntry) -> list[Path]:
    """Fetch what an entry needs from the hub, or find it in the cache."""
    return [find_pickle(name) or find_model(name).folder for name in entry.hub_names]


def _is_whole(folder: Path) -> bool:
    """Whether every component with a configuration has weights too."""
    configs = [file.parent for file in (*folder.glob("config.json"), *folder.glob("*/config.json"))]
    parts = [part for part in configs if part.name not in {"safety_checker", "feature_extractor"}]
    return bool(parts) and all(list(part.glob("*.safetensors")) for part in parts)


def total_state(entry: CatalogueEntry) -> CacheState:
    """Whether all of an entry lies in the local cache."""
    states = {cache_state(name) for name in entry.hub_names}
    if len(states) > 1:
        return "in part"
    return states.pop()
