"""Image models in one file, in Stable Diffusion's original layout: told by shapes, converted by diffusers.

diffusers asks the hub for configurations; here the shapes say it all, so that it works offline. What no such
file holds is a tokenizer: that is taken from a folder beside the file, or from the local cache of the hub.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from video_diffusion.loading.components import Network, build, fill, load_tokenizer, quiet_libraries
from video_diffusion.loading.single_file_config import (
    OPEN_CLIP,
    SINGLE_FILE_KINDS,
    VAE,
    lacking_parts,
    open_clip_config,
    single_file_kind,
    text_config,
    unet_config,
    vae_config,
)
from video_diffusion.loading.weights import (
    ModelLoadError,
    StoredTensor,
    StoredWeights,
    compare_weights,
    libraries_said,
    open_weights,
    present_component_name,
)

# All read the same words; SD 2 and SDXL's second pad with another token than OpenAI's.
_OPENAI = (
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
    ("openai/clip-vit-large-patch14", "."),
)
_OPEN_CLIP = (
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer_2"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
)


def find_tokenizer(path: Path, kind: str, second: bool = False) -> CLIPTokenizer:
    """Find and load a tokenizer; the network is never asked."""
    name = "tokenizer_2" if second else "tokenizer"
    sources = _OPEN_CLIP if second or kind == "sd2" else _OPENAI
    for folder in (path.parent / name, *_cached(sources)):
        if (folder / "tokenizer_config.json").is_file():
            return load_tokenizer(CLIPTokenizer, folder)
    repo, subfolder = sources[0]
    raise ModelLoadError(
        f"{path}: a file of this kind holds no tokenizer, and none is in the local cache; put the folder "
        f"{subfolder} of {repo} beside it as {path.parent / name}"
    )


def _cached(sources: tuple[tuple[str, str], ...]) -> Iterator[Path]:
    # only needed where there is none beside the file
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    for repo, subfolder in sources:
        try:
            yield Path(snapshot_download(repo, local_files_only=True)) / subfolder
        except LocalEntryNotFoundError:
            continue


_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders.")
_VAE_PARTS = tuple(f"{VAE}{part}." for part in ("encoder", "decoder", "quant_conv", "post_quant_conv"))
PART_FLAGS = {
    "vae": "an autoencoder with --vae (vae), a folder or file",
    "text_encoder": "a text encoder with --text-encoder (text_encoder), the folder of a model that has one",
}
_SCHEDULER: Mapping[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
}


def load_single_file(
    path: Path, dtype: torch.dtype, given: Mapping[str, object], *, allow_extra: bool = False
) -> dict[str, Any]:
    """Load an image model: fields of `ModelParts`, all but the temporal layers, defaults and identity.

    Args:
        path: The file.
        dtype: To convert to.
        given: "vae" and "text_encoder" are left out where this holds something for them.
        allow_extra: Whether surplus tensors are left out instead of refused.
    """
    file = open_weights(path)
    kind = single_file_kind(file.tensors)
    if kind is None:
        known = ", ".join(each.title for each in SINGLE_FILE_KINDS.values())
        raise ModelLoadError(
            f"{path}: must be an image model of {known} in its original layout; "
            f"`video-diffusion inspect {path.name}` says what it is"
        )
    lacking = {part: what for part, what in lacking_parts(file.tensors).items() if given[part] is None}
    if lacking:
        flags = " and ".join(PART_FLAGS[part] for part in lacking)
        raise ModelLoadError(
            f"{path}: holds no {' and no '.join(lacking.values())}, only the rest of an image model; give "
            f"{flags}, or a checkpoint that has all parts"
        )
    shapes = {name: tensor.shape for name, tensor in file.tensors.items() if name.startswith(_PREFIXES)}
    tokenizers = {}
    if given["text_encoder"] is None:
        tokenizers["tokenizer"] = find_tokenizer(path, kind)
        if kind == "sdxl":
            tokenizers["tokenizer_2"] = find_tokenizer(path, kind, second=True)
    first = second = vae_fields = None
    try:
        unet_fields = unet_config(shapes, kind)
        if given["vae"] is None:
            vae_fields = vae_config(shapes, kind)
        if given["text_encoder"] is None:
            first = open_clip_config(shapes, kind) if kind == "sd2" else text_config(shapes, kind)
            second = open_clip_config(shapes, kind) if kind == "sdxl" else None
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelLoadError(f"{path}: lacks the tensor {error} of its kind; download it again") from None
    loader = SingleFileLoader(
        path, dtype, allow_extra, file.load([n for n in shapes if not n.endswith("position_ids")])
    )
    tensors = loader.tensors
    parts: dict[str, Any] = {
        **tokenizers,
        "unet": loader.load(
            lambda: UNet2DConditionModel(**unet_fields),
            lambda unet: convert_ldm_unet_checkpoint(tensors, unet.config),
        ),
    }
    if kind == "sdxl":
        parts["zeros_for_empty_prompt"] = True
    if vae_fields is not None:
        parts["vae"] = loader.load_vae(vae_fields, kind)
    if first is not None:
        parts["text_encoder"] = loader.load(
            lambda: CLIPTextModel(CLIPTextConfig(**first)),
            lambda encoder: (
                convert_open_clip_checkpoint(encoder, dict(tensors), OPEN_CLIP[kind])
                if kind == "sd2"
                else convert_ldm_clip_checkpoint(tensors)
            ),
        )
    if second is not None:
        parts["text_encoder_2"] = loader.load(
            lambda: CLIPTextModelWithProjection(CLIPTextConfig(**second)),
            lambda encoder: convert_open_clip_checkpoint(encoder, dict(tensors), OPEN_CLIP[kind]),
        )
    return {**parts, "scheduler_config": _scheduler_config(path, kind, file.tensors)}


def load_vae_file(path: Path, dtype: torch.dtype, kind: str, *, allow_extra: bool = False) -> AutoencoderKL:
    """Load an autoencoder that is one file in the original layout, alone or within a whole model.

    Args:
        path: The file.
        dtype: To convert to.
        kind: Of the image model, a key of `SINGLE_FILE_KINDS`; decides how latents are scaled.
        allow_extra: Whether surplus tensors are left out instead of refused.
    """
    file = open_weights(path)
    alone = not any(name.startswith(VAE) for name in file.tensors)
    names = {
        name if not alone else f"{VAE}{name}": name for name in file.tensors if alone or name.startswith(VAE)
    }
    names = {name: stored for name, stored in names.items() if name.startswith(_VAE_PARTS)}
    shapes = {name: file.tensors[stored].shape for name, stored in names.items()}
    try:
        fields = vae_config(shapes, kind)
    except (KeyError, IndexError):
        raise ModelLoadError(
            f"{path}: holds no autoencoder in Stable Diffusion's layout; give such a file, or a folder in "
            "diffusers' layout with config.json"
        ) from None
    stored_tensors = file.load(names.values())
    tensors = {name: stored_tensors[stored] for name, stored in names.items()}
    return SingleFileLoader(path, dtype, allow_extra, tensors).load_vae(fields, kind)


@dataclass(frozen=True)
class SingleFileLoader:
    """Builds components and fills them with diffusers' conversions of a file's tensors."""

    path: Path
    dtype: torch.dtype
    allow_extra: bool
    tensors: Mapping[str, Tensor]

    def load_vae(self, fields: Mapping[str, Any], kind: str) -> AutoencoderKL:
        """Load the autoencoder that has these fields."""
        return self.load(
            lambda: AutoencoderKL(**fields),
            lambda vae: convert_ldm_vae_checkpoint(self.tensors, vae.config),
            needs_range=kind == "sdxl",
        )

    def load(
        self,
        make: Callable[[], Network],
        convert: Callable[[Network], Mapping[str, Tensor]],
        needs_range: bool = False,
    ) -> Network:
        """Load one component; float16 is too narrow where `needs_range`."""
        network = build(lambda _: make(), {}, {}, str(self.path), "what its shapes say")
        with (
            libraries_said(f"{self.path}: lacks tensors of its kind; download it again"),
            quiet_libraries(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            converted = convert(network)
        if isinstance(network, CLIPTextModel | CLIPTextModelWithProjection):
            # without layers that this kind of model does not run, such as the last one of SD 2's
            own = {present_component_name(name) for name in network.state_dict()}
            converted = {name: t for name, t in converted.items() if present_component_name(name) in own}
        described = {name: StoredTensor("F32", tuple(tensor.shape)) for name, tensor in converted.items()}
        compare_weights(
            StoredWeights(self.path, described), network, self.allow_extra, "the rest of the file"
        )
        dtype = torch.float32 if needs_range and self.dtype == torch.float16 else self.dtype
        return fill(network, converted, dtype, str(self.path))


def _scheduler_config(path: Path, kind: str, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """The noise schedule; marks in the file, or a configuration beside it, tell what the model predicts."""
    config = dict(_SCHEDULER)
    if "v_pred" in tensors:
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in tensors:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        found = re.search(
            r"^\s*parameterization:\s*[\"']?(v|eps)\b", beside.read_text(errors="replace"), re.M
        )
        config["prediction_type"] = "v_prediction" if found is not None and found[1] == "v" else "epsilon"
    elif kind == "sd2" and "v_pred" not in tensors:
        config["prediction_type"] = "v_prediction"
        warnings.warn(
            f"{path.name} does not say what it predicts; v_prediction is taken, as of SD 2.1 at 768 pixels; "
            f"if colours come out wrong, put {beside.name} with the line 'parameterization: eps' beside it",
            stacklevel=5,
        )
    return config
