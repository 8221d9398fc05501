"""What clips are conditioned on: prompts, pictures, videos, and the networks that read them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from video_diffusion import loading
from video_diffusion.loading import ModelParts, find_model, parse_lora
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.models import ControlWithin, FrameControl, PictureControl, SparseControl, encode_frames
from video_diffusion.pipeline.plan import context_windows
from video_diffusion.sampling import make_scheduler, start_run, timesteps_between
from video_diffusion.settings import ResolvedSettings, network_sha256, place_images
from video_diffusion.shapes import Latents, PromptEmbeds, to_float
from video_diffusion.text import encode_travel_by
from video_diffusion.video.images import Taken, read_input_image, read_input_video

if TYPE_CHECKING:
    from video_diffusion.loading import LoadedIpAdapter


def encode_prompts(
    parts: ModelParts, batch: Sequence[ResolvedSettings], negative: bool = False
) -> PromptEmbeds:
    """Encode the prompts of clips, or their negative prompts; per frame where one of them travels."""
    one = batch[0]
    keyframes = [each.prompt_keyframes(negative) for each in batch]
    return encode_travel_by(parts.encode_prompts, keyframes, one.num_frames, one.prompt_blend, one.loop)


def added_conditions(
    parts: ModelParts,
    batch: Sequence[ResolvedSettings],
    guided: bool,
    ip_adapter: "LoadedIpAdapter | None" = None,
) -> dict[str, Any]:
    """Make what a U-Net is told besides prompts: SDXL's summaries and sizes, an IP-Adapter's pictures.

    Of prompts that travel, the first one's summary stands for the clip.
    """
    prompts = [each.prompt_keyframes(negative=True)[0][1] for each in batch] if guided else []
    prompts += [each.prompt_keyframes()[0][1] for each in batch]
    one = batch[0]
    conditions: dict[str, Any] = parts.added_conditions(prompts, one.height, one.width) or {}
    if ip_adapter is not None:
        pictures = place_images("ip_image", one.ip_image, one.num_frames)
        conditions["image_embeds"] = ip_adapter.image_embeds(
            pictures, one.num_frames, len(batch), guided=guided, looped=one.loop
        )
    return {"added_cond_kwargs": conditions} if conditions else {}


def taken_of_videos(settings: ResolvedSettings) -> Taken:
    """Which frames are taken of the videos that a clip names."""
    return Taken(settings.fps, settings.video_start, settings.video_stride)


def noise_moves(settings: ResolvedSettings, latent_scale: int) -> list[np.ndarray] | None:
    """Measure how the video that the noise follows moves: from each frame but the first to the one before."""
    if settings.noise_video is None:
        return None
    size = (settings.height, settings.width)
    frames = read_input_video(
        settings.noise_video, settings.num_frames, *size, "noise_video", taken_of_videos(settings)
    )
    height, width = (side // latent_scale for side in size)
    flow, moves = DisFlow(), []
    for index, (first, second) in enumerate(pairwise(frames)):
        both = flow.between(index, first, second)
        back = np.zeros((*size, 2), np.float32) if both is None else both[1]
        moves.append(cv2.resize(back, (width, height), interpolation=cv2.INTER_AREA) / latent_scale)
    return moves


def encode_input(parts: ModelParts, settings: ResolvedSettings) -> Latents | None:
    """Encode the video or picture that clips start from; None if there is none."""
    size = (settings.height, settings.width)
    if settings.init_video is not None:
        frames = read_input_video(
            settings.init_video, settings.num_frames, *size, taken=taken_of_videos(settings)
        )
    elif settings.init_image is not None:
        frames = read_input_image(settings.init_image, *size)[None]
    else:
        return None
    latents = encode_frames(parts.vae, to_float(frames), settings.decode_chunk_size)
    return latents.expand(-1, settings.num_frames, -1, -1).unsqueeze(0)


# What steers clips frame by frame: ControlNets, SparseCtrl encoders, and the pictures that they read.


@dataclass(frozen=True)
class ClipControls:
    """What steers a clip.

    Attributes:
        frame_controls: For the model; none if nothing does.
        sha256s: Of the networks' files, by setting, for the record.
    """

    frame_controls: Sequence[FrameControl] = ()
    sha256s: Mapping[str, str] = field(default_factory=dict)


class ControlNetworks:
    """Networks that steer clips of one model, loaded when a clip first asks; the last of each kind is kept.

    They stay on the device, also where other networks wait elsewhere to save memory.

    Args:
        parts: The model.
        device: It computes on.
    """

    def __init__(self, parts: ModelParts, device: torch.device) -> None:
        self._parts = parts
        self._device = device
        self._kept: dict[str, tuple[str, nn.Module, str | None]] = {}

    def controls(self, settings: ResolvedSettings) -> ClipControls:
        """Load and read all that steers clips."""
        controls: list[FrameControl] = []
        sha256s: dict[str, str] = {}
        if settings.controlnet is not None:
            network = self._load("controlnet", settings.controlnet, sha256s)
            if settings.controlnet_scale:
                controls.append(self._picture_control(network, settings))
        if settings.sparsectrl is not None:
            network = self._load("sparsectrl", settings.sparsectrl, sha256s)
            _check_positions(network, settings)
            if settings.sparsectrl_scale:
                pictures = self._sparse_pictures(network, settings)
                controls.append(SparseControl(network, pictures, settings.sparsectrl_scale))
        return ClipControls(controls, sha256s)

    def _load(self, kind: str, name: str, sha256s: dict[str, str]) -> nn.Module:
        """The network of that name, and the hash of its files."""
        kept = self._kept.get(kind)
        if kept is None or kept[0] != name:
            self._kept.pop(kind, None)  # frees the memory before the next one is loaded
            source = find_model(name)
            load = loading.load_controlnet if kind == "controlnet" else loading.load_sparse_control
            network = nn.Module.to(load(source, self._parts), device=self._device)
            kept = self._kept[kind] = (name, network, network_sha256(str(source.folder)))
        _, network, sha256 = kept
        if sha256 is not None:
            sha256s[kind] = sha256
        return network

    def _picture_control(self, network: Any, settings: ResolvedSettings) -> FrameControl:
        assert settings.control_video is not None  # the settings were checked
        pictures = read_input_video(
            settings.control_video,
            settings.num_frames,
            *settings.size,
            "control_video",
            taken_of_videos(settings),
        )
        control = PictureControl(network, pictures, settings.controlnet_scale)
        if settings.controlnet_steps is None:
            return control
        scheduler = make_scheduler(settings.scheduler, self._parts.scheduler_config)
        _, timesteps = start_run(scheduler, *settings.run)
        return ControlWithin(
            control, *timesteps_between(timesteps, settings.controlnet_steps, "controlnet_steps")
        )

    def _sparse_pictures(self, network: Any, settings: ResolvedSettings) -> dict[int, Tensor]:
        """Frame number to what the encoder reads: the picture's latents, or its pixels."""
        size = (settings.height, settings.width)
        placed = settings.sparse_frames()
        pictures = to_float(
            np.stack([read_input_image(path, *size, "sparse_images") for path in placed.values()])
        )
        if network.config.use_simplified_condition_embedding:
            vae = self._parts.vae
            pictures = pictures.to(torch.promote_types(torch.float32, vae.dtype))
            pictures = encode_frames(vae, pictures, settings.decode_chunk_size).transpose(0, 1)
        return dict(zip(placed, pictures, strict=True))


def _check_positions(network: Any, settings: ResolvedSettings) -> None:
    known = network.config.motion_max_seq_length
    at_once = settings.num_frames if settings.freenoise else context_windows(settings).longest
    if at_once > known:
        way_out = "leave freenoise out and set" if settings.freenoise else "set"
        raise ValueError(
            f"sparsectrl {settings.sparsectrl} knows {known} frames, but {at_once} are made at once; "
            f"{way_out} context_length to {known} or less"
        )


# What clips put into their model while they are made, LoRAs and an IP-Adapter, and take out again.


@dataclass(frozen=True)
class Additions:
    """What is at work in a model.

    Attributes:
        sha256s: Of its files, by setting, for the record.
        ip_adapter: None if there is none.
    """

    sha256s: Mapping[str, str]
    ip_adapter: "LoadedIpAdapter | None" = None


@contextmanager
def at_work(parts: ModelParts, settings: ResolvedSettings) -> Iterator[Additions]:
    """Put to work what settings name, for the length of a `with` block."""
    sha256s: dict[str, str] = {}
    ip_adapter = None
    with ExitStack() as stack:
        if settings.loras:
            from video_diffusion.loading import load_loras  # noqa: PLC0415  brings peft along

            loras = stack.enter_context(load_loras(parts, [parse_lora(entry) for entry in settings.loras]))
            sha256s |= {f"loras.{k}": str(lora.sha256) for k, lora in enumerate(loras.loras)}
        if settings.ip_adapter is not None:
            from video_diffusion.loading import load_ip_adapter  # noqa: PLC0415  brings CLIP's eyes along

            ip_adapter = stack.enter_context(load_ip_adapter(parts, settings.ip_adapter, settings.ip_scale))
            sha256s |= ip_adapter.sha256s
        yield Additions(sha256s, ip_adapter)
