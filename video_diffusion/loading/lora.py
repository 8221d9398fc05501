"""LoRAs put to work in a loaded model, and taken out again so that every weight is what it was, bit for bit.

Those on temporal layers are added to the adapter's weights; those on the image model go through diffusers and
peft, which wrap its layers. One file may hold both.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import torch
from diffusers.loaders.lora_base import set_adapters_for_text_encoder
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import recurse_remove_peft_layers
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

from video_diffusion.loading.components import quiet_libraries
from video_diffusion.loading.model import ModelParts
from video_diffusion.loading.motion_weights import (
    PEFT_TAG,
    LowRank,
    add_motion_lora,
    check_low_rank,
    gather_motion_lora,
)
from video_diffusion.loading.sources import find_lora
from video_diffusion.loading.weights import ModelLoadError, StoredWeights, libraries_said, open_weights
from video_diffusion.models import MotionAdapter
from video_diffusion.settings import parse_json
from video_diffusion.video import weights_sha256

Carrier: TypeAlias = UNet2DConditionModel | CLIPTextModel | CLIPTextModelWithProjection
"""A network that peft puts LoRAs into."""

PEFT_FIELDS = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "use_dora",
    "lora_bias",
}  # fmt: skip


LYCORIS = {".hada_": "a LoHa", ".lokr_": "a LoKr", ".oft_": "an OFT adapter"}
"""Marks in the names of tensors of changes that are of low rank in other ways."""


@dataclass(frozen=True)
class LoadedLora:
    """One LoRA at work, for the record.

    Attributes:
        name: As it was asked for.
        weight: Of its changes.
        sha256: Of its file.
        num_temporal: Layers of the motion adapter that it changes.
        num_spatial: Tensors of its changes to the image model.
    """

    name: str
    weight: float
    sha256: str | None
    num_temporal: int
    num_spatial: int


class LoadedLoras:
    """LoRAs at work in a model; `unload()`, or leaving it as a context manager, takes them out.

    Attributes:
        loras: One for each, in the order given.
    """

    def __init__(self, parts: ModelParts) -> None:
        self.loras: list[LoadedLora] = []
        self._parts = parts
        self._kept: dict[str, Tensor] = {}
        self._spatial: list[str] = []

    def unload(self) -> None:
        """Take all of them out; nothing happens the second time."""
        parameters = dict(self._parts.motion_adapter.named_parameters())
        with torch.no_grad():
            for name, tensor in self._kept.items():
                parameters[name].copy_(tensor)
        self._kept = {}
        if self._spatial:
            self._parts.unet.unload_lora()
            for encoder in _text_encoders(self._parts).values():
                _unload_text_encoder(encoder)
        self._spatial = []
        self.loras = []

    def __enter__(self) -> "LoadedLoras":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unload()

    def add(self, name: str, weight: float) -> None:
        """Put one more to work; arguments and errors as `load_loras`."""
        path = find_lora(name)
        file = open_weights(path)
        tensors = file.load()
        temporal = {key: tensor for key, tensor in tensors.items() if ".motion_modules." in key}
        spatial = {key: tensor for key, tensor in tensors.items() if key not in temporal}
        other = next((kind for mark, kind in LYCORIS.items() if any(mark in key for key in tensors)), None)
        if other is not None:
            raise ModelLoadError(
                f"{path}: this is {other} (LyCORIS), which is not supported; give a LoRA, whose tensors are "
                "called lora_up and lora_down, or lora_A and lora_B"
            )
        if not any("lora" in key.lower() for key in tensors):
            raise ModelLoadError(
                f"{path}: holds no LoRA; a whole motion module is given as motion_adapter, a whole model as "
                "model"
            )
        pairs = gather_motion_lora(file, temporal) if temporal else {}
        if pairs:
            self._keep(self._parts.motion_adapter, [f"{layer}.weight" for layer in pairs])
            add_motion_lora(self._parts.motion_adapter, pairs, weight, str(path))
        if spatial:
            self._add_spatial(file, spatial, weight)
        self.loras.append(LoadedLora(name, weight, weights_sha256(path), len(pairs), len(spatial)))

    def _keep(self, adapter: MotionAdapter, names: Sequence[str]) -> None:
        """Remember weights that are about to change, as they are without any LoRA."""
        parameters = dict(adapter.named_parameters())
        for name in names:
            if name in parameters and name not in self._kept:
                self._kept[name] = parameters[name].detach().cpu().clone()

    def _add_spatial(self, file: StoredWeights, tensors: Mapping[str, Tensor], weight: float) -> None:
        if find_spec("peft") is None:
            raise ModelLoadError(f"{file.path}: a LoRA on the image model needs peft; pip install peft")
        encoders = _text_encoders(self._parts)
        loader = (
            StableDiffusionXLLoraLoaderMixin
            if "text_encoder_2" in encoders
            else StableDiffusionLoraLoaderMixin
        )
        adapter_name = f"lora_{len(self._spatial)}"
        self._spatial.append(adapter_name)
        names, weights = self._spatial, [*(lora.weight for lora in self.loras if lora.num_spatial), weight]
        check_low_rank(file, tensors)
        with libraries_said(f"{file.path}: this LoRA does not fit the model"):
            with quiet_libraries(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft warns of every LoRA after the first
                state, alphas = loader.lora_state_dict(
                    _with_prefixes(tensors), unet_config=self._parts.unet.config
                )
                _check_base(state, self._parts.unet, file.path)
                how: dict[str, Any] = {
                    "network_alphas": alphas,
                    "metadata": None if alphas else _peft_metadata(file),
                    "adapter_name": adapter_name,
                }
                loader.load_lora_into_unet(state, unet=self._parts.unet, **how)
                for prefix, encoder in encoders.items():
                    loader.load_lora_into_text_encoder(state, text_encoder=encoder, prefix=prefix, **how)
            carriers = [self._parts.unet, *encoders.values()]
            if not any(adapter_name in getattr(module, "peft_config", {}) for module in carriers):
                raise ModelLoadError(
                    f"{file.path}: none of its {len(tensors)} tensors ({', '.join(sorted(tensors)[:2])}, …) "
                    "belong to a layer of this model; use a LoRA for the same base model"
                )
            for module in carriers:
                _set_weights(module, dict(zip(names, weights, strict=True)))


def load_loras(parts: ModelParts, loras: Sequence[tuple[str, float]]) -> LoadedLoras:
    """Put LoRAs to work in a loaded model; on any error the model is left as it was.

    Args:
        parts: The model; its weights are changed in place until `unload()` of what is returned.
        loras: File, folder (also a training run's) or hub id of each, and the weight of its changes: 1 is as
            trained. Several add up.

    Returns:
        The LoRAs at work: `unload()` takes them out, `loras` lists them for the record.

    Raises:
        ModelLoadError: A file that is missing, damaged, no LoRA, or made for another base model.
    """
    loaded = LoadedLoras(parts)
    try:
        for name, weight in loras:
            loaded.add(name, weight)
    except BaseException:
        loaded.unload()
        raise
    return loaded


def read_lora(parts: ModelParts, name: str) -> dict[str, LowRank]:
    """The corrections of a LoRA by layer: of the motion adapter if it is a motion LoRA, else of the U-Net.

    Args:
        parts: The model that it is for.
        name: File, folder (also a training run's) or hub id.

    Raises:
        ModelLoadError: A file that is missing, damaged or no LoRA.
    """
    file = open_weights(find_lora(name))
    tensors = file.load()
    temporal = {key: tensor for key, tensor in tensors.items() if ".motion_modules." in key}
    if temporal:
        return gather_motion_lora(file, temporal)
    loader = (
        StableDiffusionLoraLoaderMixin if parts.text_encoder_2 is None else StableDiffusionXLLoraLoaderMixin
    )
    check_low_rank(file, tensors)
    with libraries_said(f"{file.path}: is no LoRA that can be read"):
        state, alphas = loader.lora_state_dict(_with_prefixes(tensors), unet_config=parts.unet.config)
    pairs = {}
    for key, down in state.items():
        layer, mark, _ = key.partition(".lora_A.weight" if ".lora_A." in key else ".lora.down.weight")
        if not mark or not layer.startswith("unet."):
            continue
        up = state.get(key.replace("lora_A", "lora_B").replace("lora.down", "lora.up"))
        if up is None or down.ndim != 2 or up.shape[-1] != len(down):
            raise ModelLoadError(f"{file.path}: {layer} lacks one half of its change, or halves of one rank")
        alpha = (alphas or {}).get(f"{layer}.alpha", len(down))
        pairs[layer.removeprefix("unet.")] = LowRank(down.float(), up.float(), float(alpha) / len(down))
    if not pairs:
        raise ModelLoadError(f"{file.path}: holds no LoRA of an image U-Net; give a file or run that does")
    return pairs


def _text_encoders(parts: ModelParts) -> dict[str, CLIPTextModel | CLIPTextModelWithProjection]:
    second = {} if parts.text_encoder_2 is None else {"text_encoder_2": parts.text_encoder_2}
    return {"text_encoder": parts.text_encoder} | second


def _with_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Say of layers that name no component that they are the U-Net's; without it diffusers takes none."""
    blocks = ("down_blocks.", "mid_block.", "up_blocks.")
    return {f"unet.{key}" if key.startswith(blocks) else key: tensor for key, tensor in tensors.items()}


def _peft_metadata(file: StoredWeights) -> dict[str, Any] | None:
    """What peft wrote of scales and ranks, as far as it is about these: a file may say anything."""
    text = file.metadata.get(PEFT_TAG)
    if text is None:
        return None
    try:
        values = dict(parse_json(text, strict=False))
    except (ValueError, TypeError):
        raise ModelLoadError(f"{file.path}: its {PEFT_TAG} is damaged; save the LoRA again") from None
    return {key: value for key, value in values.items() if key.rpartition(".")[2] in PEFT_FIELDS}


def _check_base(state: Mapping[str, Tensor], unet: UNet2DConditionModel, path: Path) -> None:
    """Refuse a LoRA for a model that reads text of another width, such as SD 1.5's for SDXL."""
    expected = unet.config.cross_attention_dim
    for name, tensor in state.items():
        is_down = name.endswith((".lora_A.weight", "lora.down.weight"))
        if is_down and ".attn2.to_k" in name and tensor.shape[1] != expected:
            raise ModelLoadError(
                f"{path}: this LoRA is for a model that reads text of width {tensor.shape[1]}, but this one "
                f"reads {expected}; use a LoRA for the same base model"
            )


def _set_weights(module: Carrier, weights: Mapping[str, float]) -> None:
    """Weigh the adapters that a model or text encoder carries; it need not carry all."""
    own = [name for name in weights if name in getattr(module, "peft_config", {})]
    if not own:
        return
    values = [weights[name] for name in own]
    if hasattr(module, "set_adapters"):
        module.set_adapters(own, values)
    else:
        set_adapters_for_text_encoder(own, module, values)


def _unload_text_encoder(encoder: CLIPTextModel | CLIPTextModelWithProjection) -> None:
    if getattr(encoder, "peft_config", None):
        recurse_remove_peft_layers(encoder)
        del encoder.peft_config
        encoder._hf_peft_config_loaded = None
