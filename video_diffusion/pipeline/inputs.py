"""What clips are conditioned on: prompts, pictures, videos, and the networks that read them."""

import hashlib
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
from jaxtyping import Float
from torch import Tensor, nn

from video_diffusion import loading
from video_diffusion.loading import ModelParts, find_model, load_embedding, parse_lora
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.models import ControlWithin, FrameControl, PictureControl, SparseControl, encode_frames
from video_diffusion.pipeline.plan import context_windows, has_guidance
from video_diffusion.sampling import make_scheduler, start_run, timesteps_between
from video_diffusion.settings import ResolvedSettings, named, network_sha256, place_images
from video_diffusion.shapes import Latents, PromptEmbeds, to_float
from video_diffusion.text import PLAIN, PromptReading, encode_travel_by
from video_diffusion.video.images import as_input_file, read_input_image, read_input_video

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
    frames = read_input_video(settings.noise_video, settings.num_frames, *size, "noise_video")
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
        frames = read_input_video(settings.init_video, settings.num_frames, *size)
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
            settings.control_video, settings.num_frames, *settings.size, "control_video"
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
