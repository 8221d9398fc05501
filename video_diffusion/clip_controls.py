"""What steers clips frame by frame: ControlNets, SparseCtrl encoders, and the pictures that they read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from video_diffusion import loading
from video_diffusion.clip_plan import context_windows, run_of, sparse_pictures
from video_diffusion.generation_settings import network_sha256
from video_diffusion.io.input_frames import read_input_image, read_input_video
from video_diffusion.loading import ModelParts, find_model
from video_diffusion.models import ControlWithin, FrameControl, PictureControl, SparseControl, encode_frames
from video_diffusion.sampling import make_scheduler, start_run, timesteps_between
from video_diffusion.shapes import to_float


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

    def controls(self, settings: Any) -> ClipControls:
        """Load and read all that steers clips.

        Args:
            settings: Resolved, of all clips that are made together.

        Raises:
            ModelLoadError: A network that is damaged, or made for another image model.
            VideoReadError: A picture or video that cannot be read.
            ValueError: A video with fewer frames than the clip, or more frames than a network knows.
        """
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

    def _picture_control(self, network: Any, settings: Any) -> FrameControl:
        pictures = read_input_video(
            settings.control_video, settings.num_frames, settings.height, settings.width, "control_video"
        )
        control = PictureControl(network, pictures, settings.controlnet_scale)
        if settings.controlnet_steps is None:
            return control
        scheduler = make_scheduler(settings.scheduler, self._parts.scheduler_config)
        _, timesteps = start_run(scheduler, *run_of(settings))
        return ControlWithin(
            control, *timesteps_between(timesteps, settings.controlnet_steps, "controlnet_steps")
        )

    def _sparse_pictures(self, network: Any, settings: Any) -> dict[int, Tensor]:
        """Frame number to what the encoder reads: the picture's latents, or its pixels."""
        size = (settings.height, settings.width)
        placed = sparse_pictures(settings)
        pictures = to_float(
            np.stack([read_input_image(path, *size, "sparse_images") for path in placed.values()])
        )
        if network.config.use_simplified_condition_embedding:
            vae = self._parts.vae
            pictures = pictures.to(torch.promote_types(torch.float32, vae.dtype))
            pictures = encode_frames(vae, pictures, settings.decode_chunk_size).transpose(0, 1)
        return dict(zip(placed, pictures, strict=True))


def _check_positions(network: Any, settings: Any) -> None:
    known = network.config.motion_max_seq_length
    at_once = settings.num_frames if settings.freenoise else context_windows(settings).longest
    if at_once > known:
        way_out = "leave freenoise out and set" if settings.freenoise else "set"
        raise ValueError(
            f"sparsectrl {settings.sparsectrl} knows {known} frames, but {at_once} are made at once; "
            f"{way_out} context_length to {known} or less"
        )
