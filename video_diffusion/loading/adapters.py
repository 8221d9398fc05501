"""An IP-Adapter at work in a loaded image model, through diffusers, and out again as it was, bit for bit."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from video_diffusion.loading.components import load_text_encoder, quiet_libraries
from video_diffusion.loading.model import ModelParts
from video_diffusion.loading.sources import IpAdapterSource, find_ip_adapter
from video_diffusion.loading.weights import ModelLoadError, libraries_said
from video_diffusion.models import computing_device
from video_diffusion.settings import content_sha256
from video_diffusion.settings.input_files import ip_adapter_sha256s
from video_diffusion.text import travel
from video_diffusion.video import iter_frames

ImageEmbeds: TypeAlias = Float[Tensor, "images n d"]
"""Of each image one vector (n is 1), or one for each of its patches."""


def encode_images(
    source: IpAdapterSource, files: Sequence[str], dtype: torch.dtype, device: torch.device
) -> tuple[ImageEmbeds, Float[Tensor, "1 n d"]]:
    """Encode images as an IP-Adapter reads them.

    CLIP sees the square in the middle of an image, at its own size. The encoder is in memory only while it
    computes, and what it said of the last images is remembered.
    """
    by_patch = source.facts.kind != "image"
    known = (
        source.encoder,
        content_sha256(str(source.encoder)),
        tuple((f, content_sha256(f)) for f in files),
    )
    embeds, without = _encode(*known, dtype, device, by_patch)
    return embeds.to(device), without.to(device)


@lru_cache(maxsize=8)
def _encode(
    folder: Path,
    folder_sha256: str | None,
    files: tuple[tuple[str, str | None], ...],
    dtype: torch.dtype,
    device: torch.device,
    by_patch: bool,
) -> tuple[Tensor, Tensor]:
    """Encode what has these names and this content; see `encode_images`."""
    # Not the class that takes torchvision where it is installed: frames would depend on that.
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: PLC0415

    images = [next(iter(iter_frames(path))).pixels for path, _ in files]
    encoder = load_text_encoder(CLIPVisionModelWithProjection, folder, dtype).to(device)
    side = encoder.config.image_size
    processor = CLIPImageProcessorPil(size=side, crop_size=side)
    pixels = torch.cat([processor(image, return_tensors="pt").pixel_values for image in images])
    pixels = pixels.to(device, dtype)
    with torch.no_grad():
        if not by_patch:
            embeds = encoder(pixels).image_embeds[:, None]
            return embeds.cpu(), torch.zeros_like(embeds[:1]).cpu()
        both = torch.cat([pixels, torch.zeros_like(pixels[:1])])
        patches = encoder(both, output_hidden_states=True).hidden_states[-2].cpu()
    return patches[:-1], patches[-1:]


ImageKeyframes = Sequence[tuple[float, str]]
"""Frames in order, and the file of the image that holds there."""


class LoadedIpAdapter:
    """An IP-Adapter in a model; `unload()`, or leaving it as a context manager, takes it out.

    Cross attention then reads tokens of an image beside those of the prompt (Ye et al. 2023). Frames are the
    image model's batch, so each may have an image of its own; temporal layers know nothing of it.

    Args:
        parts: The model; its U-Net is changed in place.
        source: Found and checked by `find_ip_adapter`.
        scale: Weight of what it adds, 1 as trained; 0 adds nothing.

    Raises:
        ModelLoadError: It was made for another image model; the U-Net is as before then.
    """

    def __init__(self, parts: ModelParts, source: IpAdapterSource, scale: float) -> None:
        unet = parts.unet
        _check_base(source, unet)
        parts_of_file: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in source.weights.load().items():
            part, _, name = key.partition(".")
            if part in parts_of_file:  # what belongs to neither stays out, as it does in diffusers
                parts_of_file[part][name] = tensor
        self.source = source
        self._unet = unet
        self._processors: dict[str, Any] = dict(unet.attn_processors)
        self._is_loaded = True
        try:
            does_not_fit = f"{source.weights.path}: this IP-Adapter does not fit the model"
            with libraries_said(does_not_fit), quiet_libraries():
                unet._load_ip_adapter_weights([parts_of_file], low_cpu_mem_usage=False)
        except BaseException:
            self.unload()
            raise
        for processor in unet.attn_processors.values():
            if hasattr(processor, "to_k_ip"):
                processor.scale = [scale]
        unet.encoder_hid_proj.eval()

    @property
    def sha256s(self) -> dict[str, str]:
        """Hashes of the files at work, for the record."""
        return ip_adapter_sha256s(str(self.source.weights.path))

    def image_embeds(
        self, keyframes: ImageKeyframes, num_frames: int, num_videos: int, *, guided: bool, looped: bool
    ) -> list[Tensor]:
        """Make the U-Net's `image_embeds`: of each video if there is one image, else of each frame, folded.

        Args:
            keyframes: Images, see `place_images`; between two a frame gets some of both.
            num_frames: Of each video.
            num_videos: Which all get the same images.
            guided: Whether those of guidance's negative half, which knows no image, come first.
            looped: Whether the last image goes over into the first.

        Raises:
            VideoReadError: An image cannot be read.
            ModelLoadError: The image encoder cannot be loaded.
        """
        files = list(dict.fromkeys(path for _, path in keyframes))
        embeds, without = encode_images(self.source, files, self._unet.dtype, computing_device(self._unet))
        if len(files) > 1:
            at_keyframes = torch.stack([embeds[files.index(path)] for _, path in keyframes])
            embeds = travel([frame for frame, _ in keyframes], at_keyframes, num_frames, looped=looped)
        halves = [without.expand_as(embeds), embeds] if guided else [embeds]
        folded = torch.cat([half.repeat(num_videos, 1, 1) for half in halves])
        # diffusers' next axis counts images; one vector is an image, patches lie inside one.
        return [folded if self.source.facts.kind == "image" else folded[:, None]]

    def unload(self) -> None:
        """Take it out; nothing happens the second time."""
        if not self._is_loaded:
            return
        self._is_loaded = False
        del self._unet.encoder_hid_proj  # first: it may hold attention layers of its own
        self._unet.encoder_hid_proj = None
        self._unet.config.encoder_hid_dim_type = None
        self._unet.set_attn_processor(dict(self._processors))

    def __enter__(self) -> "LoadedIpAdapter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unload()


def load_ip_adapter(parts: ModelParts, name: str, scale: float = 1.0) -> LoadedIpAdapter:
    """Put an IP-Adapter to work in a loaded model; on any error the model is left as it was.

    Args:
        parts: The model; its U-Net is changed in place until `unload()` of what is returned.
        name: As `find_ip_adapter` takes it.
        scale: Weight of what it adds, 1 as trained; 0 adds nothing.

    Raises:
        ModelLoadError: A file that is missing, damaged, no IP-Adapter, or made for another image model.
    """
    return LoadedIpAdapter(parts, find_ip_adapter(name), scale)


def _check_base(source: IpAdapterSource, unet: UNet2DConditionModel) -> None:
    """Refuse an adapter for a model of another text width, or of other layers."""
    path, facts = source.weights.path, source.facts
    if unet.encoder_hid_proj is not None:
        raise ModelLoadError(
            f"{path}: this model reads something beside its prompt already; use another model"
        )
    width = unet.config.cross_attention_dim
    if facts.text_width != width:
        raise ModelLoadError(
            f"{path}: this IP-Adapter is for a model that reads text of width {facts.text_width}, but this "
            f"one reads {width}; use an IP-Adapter for the same base model"
        )
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    layers = [unet.get_submodule(name.removesuffix(".processor")) for name in names]
    # diffusers numbers all attention layers, of which every second one reads the prompt.
    expected = {f"ip_adapter.{2 * k + 1}.to_k_ip.weight": layer.inner_dim for k, layer in enumerate(layers)}
    found = {
        name: tensor.shape[0] if tensor.shape else 0
        for name, tensor in source.weights.tensors.items()
        if name.endswith(".to_k_ip.weight")
    }
    if found != expected:
        raise ModelLoadError(
            f"{path}: this IP-Adapter has {len(found)} layers of widths {sorted(set(found.values()))}, but "
            f"this model's cross attention has {len(expected)} of {sorted(set(expected.values()))}; use an "
            "IP-Adapter for the same base model"
        )
