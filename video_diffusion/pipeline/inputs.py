"""What clips are conditioned on: prompts, pictures, videos, and the networks that read them."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from video_diffusion import loading
from video_diffusion.loading import ModelParts, find_model, load_embedding, parse_lora
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.models import (
    ControlWithin,
    FrameControl,
    PictureControl,
    SparseControl,
    encode_frames,
    latent_scale,
)
from video_diffusion.pipeline.plan import context_windows, has_guidance
from video_diffusion.sampling import make_scheduler, start_run, timesteps_between
from video_diffusion.settings import (
    ControlSettings,
    ResolvedSettings,
    named,
    network_sha256,
    place_images,
)
from video_diffusion.shapes import Latents, PromptEmbeds, to_float
from video_diffusion.text import PLAIN, PromptReading, encode_travel_by
from video_diffusion.video import iter_frames, read_video
from video_diffusion.video.images import (
    Taken,
    as_input_file,
    draw_lines,
    read_input_image,
    read_input_video,
)

if TYPE_CHECKING:
    from video_diffusion.loading import LoadedIpAdapter


def encode_prompts(
    parts: ModelParts,
    batch: Sequence[ResolvedSettings],
    reading: PromptReading,
    num_chunks: int,
    negative: bool = False,
) -> PromptEmbeds:
    """Encode the prompts of clips, or their negative prompts; per frame where one of them travels."""
    one = batch[0]
    keyframes = [each.prompt_keyframes(negative) for each in batch]
    name = "negative_prompt" if negative else "prompt"
    encode = partial(parts.text_encoders.prompt_embeds, reading=reading, num_chunks=num_chunks, name=name)
    return encode_travel_by(encode, keyframes, one.num_frames, one.prompt_blend, one.loop)


def encode_negative_prompts(
    parts: ModelParts, batch: Sequence[ResolvedSettings], reading: PromptReading, num_tokens: int
) -> PromptEmbeds:
    """Encode negative prompts to as many tokens as the prompts' embeddings have."""
    per_chunk = parts.text_encoders.chunk_tokens
    num_chunks = count_chunks(parts, batch[0], reading, (True,))
    if num_tokens % per_chunk or num_tokens < num_chunks * per_chunk:
        raise ValueError(
            f"prompt_embeds has {num_tokens} tokens, but negative_prompt is made of {num_chunks} chunks of "
            f"{per_chunk}; give negative_prompt_embeds of the same length"
        )
    return encode_prompts(parts, batch, reading, num_tokens // per_chunk, negative=True)


@dataclass(frozen=True)
class GivenEmbeds:
    """Embeddings that stand in place of a clip's prompts; None is what the prompts are encoded to.

    Attributes:
        prompt_embeds: As the U-Net reads them, of the video or of each of its frames.
        negative_prompt_embeds: Likewise; of as many tokens.
        pooled_prompt_embeds, negative_pooled_prompt_embeds: Of SDXL, for the whole clip.
    """

    prompt_embeds: Float[Tensor, "... n d"] | None = None
    negative_prompt_embeds: Float[Tensor, "... n_negative d_negative"] | None = None
    pooled_prompt_embeds: Float[Tensor, "... d_pooled"] | None = None
    negative_pooled_prompt_embeds: Float[Tensor, "... d_pooled_negative"] | None = None

    @property
    def sha256s(self) -> dict[str, str]:
        """Hashes of their numbers, for the record."""
        given = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return {
            name: hashlib.sha256(tensor.detach().cpu().double().contiguous().numpy().tobytes()).hexdigest()
            for name, tensor in given.items()
        }

    def of_tokens(self, name: str, unet: UNet2DConditionModel, num_frames: int) -> PromptEmbeds | None:
        """One of them, checked, for a batch of one video."""
        embeds, width = getattr(self, name), int(unet.config.cross_attention_dim)
        if embeds is None:
            return None
        is_per_frame = embeds.ndim == 3 and len(embeds) == num_frames > 1
        shaped = embeds[None] if embeds.ndim == 2 or is_per_frame else embeds
        if (
            shaped.ndim not in {3, 4}
            or len(shaped) != 1
            or shaped.shape[-1] != width
            or (shaped.ndim == 4 and shaped.shape[1] != num_frames)
        ):
            raise ValueError(
                f"{name} must have the shape (tokens, {width}), or ({num_frames}, tokens, {width}) for the "
                f"frames of the clip, but has {tuple(embeds.shape)}"
            )
        return shaped.to(unet.device, unet.dtype)

    def pooled(self, conditions: dict[str, Tensor], guided: bool) -> dict[str, Tensor]:
        """SDXL's conditions with these vectors in their place."""
        if "text_embeds" not in conditions:
            return conditions
        text_embeds = conditions["text_embeds"].clone()
        rows = {"negative": self.negative_pooled_prompt_embeds} if guided else {}
        for row, (side, vector) in enumerate([*rows.items(), ("", self.pooled_prompt_embeds)]):
            tokens = self.negative_prompt_embeds if side else self.prompt_embeds
            if vector is not None:
                text_embeds[row] = vector.reshape(-1).to(text_embeds)
            elif tokens is not None:
                name = f"{side}_pooled_prompt_embeds".lstrip("_")
                raise ValueError(f"{name} is missing; an SDXL model reads it beside the tokens, so give both")
        return {**conditions, "text_embeds": text_embeds}


NOTHING_GIVEN = GivenEmbeds()


def count_chunks(
    parts: ModelParts, settings: ResolvedSettings, reading: PromptReading, sides: Sequence[bool] = ()
) -> int:
    """Count the chunks of the longest of a clip's prompts, its negative ones included."""
    sides = sides or ((False, True) if has_guidance(settings) else (False,))
    texts = [text for negative in sides for _, text in settings.prompt_keyframes(negative)]
    return parts.text_encoders.num_chunks(texts, reading)


def added_conditions(
    parts: ModelParts,
    batch: Sequence[ResolvedSettings],
    guided: bool,
    reading: PromptReading,
    ip_adapter: "LoadedIpAdapter | None" = None,
    given: GivenEmbeds = NOTHING_GIVEN,
) -> dict[str, Any]:
    """Make what a U-Net is told besides prompts: SDXL's summaries and sizes, an IP-Adapter's pictures.

    Of prompts that travel, the first one's summary stands for the clip.
    """
    prompts = [each.prompt_keyframes(negative=True)[0][1] for each in batch] if guided else []
    prompts += [each.prompt_keyframes()[0][1] for each in batch]
    one = batch[0]
    text_conditions = parts.added_conditions(prompts, one.height, one.width, reading)
    conditions: dict[str, Any] = given.pooled(text_conditions or {}, guided)
    if ip_adapter is not None:
        pictures = place_images("ip_image", one.ip_image, one.num_frames)
        conditions["image_embeds"] = ip_adapter.image_embeds(
            pictures, one.num_frames, len(batch), guided=guided, looped=one.loop
        )
    return {"added_cond_kwargs": conditions} if conditions else {}


def taken_of_videos(settings: ResolvedSettings) -> Taken:
    """Which frames are taken of the videos that a clip names."""
    return Taken(settings.fps, settings.video_start, settings.video_stride)


def with_input_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with files in place of the images and frames that Python holds."""
    found = dict(values)
    for name in (*named("input"), *named("frame inputs")):
        if name not in found:
            continue
        try:
            if isinstance(found[name], Mapping):
                found[name] = {frame: as_input_file(value) for frame, value in found[name].items()}
            else:
                found[name] = as_input_file(found[name])
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return found


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
    if settings.refine is not None and settings.refine_upscale == "latents":
        return _enlarged_latents(parts, settings)
    if settings.init_video is not None:
        taken = taken_of_videos(settings)
        frames = read_input_video(settings.init_video, settings.num_frames, *size, taken=taken)
    elif settings.refine is not None:
        frames = read_input_video(settings.refine, settings.num_frames, *size, "refine")
    elif settings.init_image is not None:
        frames = read_input_image(settings.init_image, *size)[None]
    else:
        return None
    latents = encode_frames(parts.vae, to_float(frames), settings.decode_chunk_size)
    return latents.expand(-1, settings.num_frames, -1, -1).unsqueeze(0)


def _enlarged_latents(parts: ModelParts, settings: ResolvedSettings) -> Latents:
    """Latents of a clip at its own size, cut to the aspect asked for, made larger."""
    assert settings.refine is not None
    scale = latent_scale(parts.vae)
    height, width = next(iter(iter_frames(settings.refine))).pixels.shape[:2]
    larger = max(settings.height / height, settings.width / width)
    own_height, own_width = (max(round(side / larger / scale), 1) * scale for side in settings.size)
    frames = read_input_video(settings.refine, settings.num_frames, own_height, own_width, "refine")
    latents = encode_frames(parts.vae, to_float(frames), settings.decode_chunk_size)
    size = settings.height // scale, settings.width // scale
    large = nn.functional.interpolate(latents.transpose(0, 1).float(), size, mode="bicubic")
    return large.transpose(0, 1).unsqueeze(0)


# A clip that goes on: what is there, held where both meet, and what is made behind it.


@dataclass(frozen=True)
class ExtendedClip:
    """A clip that is gone on from.

    Attributes:
        frames: All of it.
        overlap: How many of its last frames are held; they are the first that are made.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    overlap: int

    def known_latents(self, parts: ModelParts, settings: ResolvedSettings) -> Latents:
        """Latents of the held frames, followed by zeros."""
        held = to_float(self.frames[-self.overlap :])
        latents = encode_frames(parts.vae, held, settings.decode_chunk_size)
        channels, num_held, height, width = latents.shape
        return torch.cat(
            [latents, latents.new_zeros(channels, settings.num_frames - num_held, height, width)], dim=1
        ).unsqueeze(0)

    def joined(self, made: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f_all h w 3"]:
        """The clip and what follows; where both are there, one fades into the other.

        What the autoencoder loses of the held frames so never shows as a jump.
        """
        share = (np.arange(1, self.overlap + 1) / (self.overlap + 1))[:, None, None, None]
        held = self.frames[-self.overlap :] * (1 - share) + made[: self.overlap] * share
        return np.concatenate(
            [self.frames[: -self.overlap], held.round().astype(np.uint8), made[self.overlap :]]
        )

    def joints(self, window_starts: Sequence[int]) -> tuple[int, ...]:
        """First frames of what was made together, in the whole clip: the joint, and context windows."""
        offset = len(self.frames) - self.overlap
        return tuple(sorted({len(self.frames), *(offset + start for start in window_starts if start)}))


def read_extended(settings: ResolvedSettings) -> ExtendedClip | None:
    """Read the clip that settings go on from; None if they begin anew."""
    if settings.extend is None:
        return None
    video = read_video(settings.extend)
    if len(video.frames) < settings.extend_overlap:
        raise ValueError(
            f"extend {settings.extend} has {len(video.frames)} frames, but extend_overlap is "
            f"{settings.extend_overlap}; set it to {len(video.frames)} or less"
        )
    if video.fps is not None and abs(video.fps - settings.fps) > settings.fps / 100:
        warnings.warn(
            f"extend {settings.extend} is at {float(video.fps):g} fps and will be shown at "
            f"{float(settings.fps):g}; leave fps out to keep its rate",
            stacklevel=4,
        )
    return ExtendedClip(video.frames, settings.extend_overlap)


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
        networks = settings.networks
        if settings.controlnet:  # frees the memory of those that are done with before others are loaded
            steering = {key for key in self._kept if key.startswith("controlnet")}
            for key in steering:
                if networks.get(key) != self._kept[key][0]:
                    del self._kept[key]
        for number, control in enumerate(settings.controls):
            suffix = f".{number}" if len(settings.controls) > 1 else ""
            network = self._load(f"controlnet{suffix}", control.network, sha256s)
            if control.scale:
                controls.append(self._picture_control(network, control, settings))
        if settings.sparsectrl is not None:
            network = self._load("sparsectrl", settings.sparsectrl, sha256s)
            _check_positions(network, settings)
            if settings.sparsectrl_scale:
                pictures = self._sparse_pictures(network, settings)
                controls.append(SparseControl(network, pictures, settings.sparsectrl_scale))
        return ClipControls(controls, sha256s)

    def _load(self, key: str, name: str, sha256s: dict[str, str]) -> nn.Module:
        """The network of that name, and the hash of its files."""
        kept = self._kept.get(key)
        if kept is None or kept[0] != name:
            self._kept.pop(key, None)
            source = find_model(name)
            is_sparse = key == "sparsectrl"
            load = loading.load_sparse_control if is_sparse else loading.load_controlnet
            network = nn.Module.to(load(source, self._parts), device=self._device)
            kept = self._kept[key] = (name, network, network_sha256(str(source.folder)))
        _, network, sha256 = kept
        if sha256 is not None:
            sha256s[key] = sha256
        return network

    def _picture_control(
        self, network: Any, control: ControlSettings, settings: ResolvedSettings
    ) -> FrameControl:
        taken = taken_of_videos(settings)
        pictures = read_input_video(
            control.video, settings.num_frames, *settings.size, "control_video", taken
        )
        if control.make != "none":
            pictures = draw_lines(pictures, control.make)
        steering = PictureControl(network, pictures, control.scale)
        if control.steps is None:
            return steering
        scheduler = make_scheduler(settings.scheduler, self._parts.scheduler_config)
        _, timesteps = start_run(scheduler, *settings.run)
        return ControlWithin(steering, *timesteps_between(timesteps, control.steps, "controlnet_steps"))

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
        reading: How prompts are read, with their embeddings.
    """

    sha256s: Mapping[str, str]
    ip_adapter: "LoadedIpAdapter | None" = None
    reading: PromptReading = PLAIN


@contextmanager
def at_work(parts: ModelParts, batch: Sequence[ResolvedSettings]) -> Iterator[Additions]:
    """Put to work what the settings of clips name, for the length of a `with` block."""
    settings, sha256s = batch[0], dict[str, str]()
    ip_adapter = None
    with ExitStack() as stack:
        if settings.all_loras:
            from video_diffusion.loading import load_loras  # noqa: PLC0415  brings peft along

            entries = [parse_lora(entry) for entry in settings.all_loras]
            loras = stack.enter_context(load_loras(parts, entries))
            sha256s |= {f"loras.{k}": str(lora.sha256) for k, lora in enumerate(loras.loras)}
        if settings.ip_adapter is not None:
            from video_diffusion.loading import load_ip_adapter  # noqa: PLC0415  brings CLIP's eyes along

            ip_adapter = stack.enter_context(load_ip_adapter(parts, settings.ip_adapter, settings.ip_scale))
            sha256s |= ip_adapter.sha256s
        yield Additions(sha256s, ip_adapter, _read_embeddings(parts, batch))


def _read_embeddings(parts: ModelParts, batch: Sequence[ResolvedSettings]) -> PromptReading:
    """Say how the prompts of clips are read, with the embeddings that one of them names."""
    one = batch[0]
    files = {word: path for each in batch for word, path in each.used_embeddings.items()}
    vectors = {word: load_embedding(path, parts) for word, path in files.items()}
    return PromptReading(one.prompt_syntax, one.clip_skip, vectors)
