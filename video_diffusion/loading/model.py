"""A whole text-to-video model from its folder, and back: parts checked, then loaded."""

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypedDict

import diffusers
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from video_diffusion.loading.components import (
    EXTRAS_FILE,
    IMAGE_LORA_FILE,
    apply_unet_changes,
    check_config,
    load_diffusers,
    load_text_encoder,
    load_tokenizer,
    quiet_libraries,
)
from video_diffusion.loading.motion import MotionFile, detect, distilled_schedule, distilled_settings
from video_diffusion.loading.motion_weights import load_motion, split_motion_unet
from video_diffusion.loading.sources import ModelSource, find_model
from video_diffusion.loading.weights import (
    ModelLoadError,
    OnBytes,
    libraries_said,
    read_json,
    telling_bytes,
)
from video_diffusion.models import MotionAdapter, temporal_places
from video_diffusion.models.latents import VAE
from video_diffusion.sampling.schedulers import trained_schedule
from video_diffusion.settings import shown
from video_diffusion.settings.input_files import PARTS_OF_MODELS
from video_diffusion.text import PLAIN, PromptReading, TextEncoders, size_conditions
from video_diffusion.video import ModelIdentity, atomic_path, weights_sha256


@dataclass(frozen=True)
class ModelParts:
    """What a text-to-video model is made of.

    Attributes:
        tokenizer, text_encoder, vae, unet, motion_adapter: In evaluation mode, on the CPU.
        scheduler_config: The noise schedule the model was trained with, and what it predicts.
        defaults: The model's own generation settings, and its `vocabulary` if it is limited; see
            `generation_defaults.json`. Empty if the folder has none and the adapter is of no known family.
        identity: Names and hashes for the run record.
        tokenizer_2, text_encoder_2: Of SDXL models; None for others.
        vae_name, text_encoder_name: Where these came from in place of the model's own; None is its own.
        quantize: How weights are stored in fewer bits, see `quantize_weights`; None as they were read.
        zeros_for_empty_prompt: Whether an empty prompt is all zeros, as SDXL was trained.
        image_model: Noise schedule and defaults as they were before those of the motion adapter.
        unet_changes: Parameters of the image U-Net that the adapter's run trained too, by name.
    """

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: VAE
    unet: UNet2DConditionModel
    motion_adapter: MotionAdapter
    scheduler_config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    identity: ModelIdentity
    tokenizer_2: CLIPTokenizer | None = None
    text_encoder_2: CLIPTextModelWithProjection | None = None
    zeros_for_empty_prompt: bool = False
    vae_name: str | None = None
    text_encoder_name: str | None = None
    quantize: str | None = None
    image_model: tuple[dict[str, Any], dict[str, Any]] | None = None
    unet_changes: frozenset[str] = frozenset()

    @property
    def networks(self) -> list[nn.Module]:
        """All that computes, for moving to a device."""
        parts = (self.text_encoder, self.text_encoder_2, self.vae, self.unet, self.motion_adapter)
        return [part for part in parts if part is not None]

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Encode each prompt as this model's U-Net reads it, every sign as a letter."""
        return self.text_encoders.prompt_embeds(prompts)

    def added_conditions(
        self, prompts: Sequence[str], height: int, width: int, reading: PromptReading = PLAIN
    ) -> dict[str, Tensor] | None:
        """Make what an SDXL U-Net reads besides the prompts' tokens; None for other models.

        Args:
            prompts: One for each video of the batch; of guidance's doubled batch the negative ones first.
            height: Pixels of the clip.
            width: Pixels of the clip.
            reading: How the prompts are read.
        """
        if self.text_encoder_2 is None:
            return None
        pooled = self.text_encoders.pooled_embeds(prompts, reading)
        return {"text_embeds": pooled, "time_ids": size_conditions(height, width, len(prompts)).to(pooled)}

    @property
    def text_encoders(self) -> TextEncoders:
        """The text encoder, or SDXL's two, with their tokenizers."""
        if self.tokenizer_2 is None or self.text_encoder_2 is None:
            return TextEncoders([self.tokenizer], [self.text_encoder])
        tokenizers, encoders = (self.tokenizer, self.tokenizer_2), (self.text_encoder, self.text_encoder_2)
        return TextEncoders(tokenizers, encoders, self.zeros_for_empty_prompt)


# From a folder in the layout of Stable Diffusion (XL too) or AnimateDiff.


NO_TEMPORAL_LAYERS = "none"
DEFAULTS_FILE = "generation_defaults.json"
XL_PIPELINES = ("StableDiffusionXLPipeline", "AnimateDiffSDXLPipeline")
PIPELINES = ("StableDiffusionPipeline", "AnimateDiffPipeline", *XL_PIPELINES)
TOKENIZER = "transformers.models.clip.tokenization_clip:CLIPTokenizer"
# Where each kind of component is; imported when a folder asks for it, since importing all takes a second.
KINDS: Mapping[str, Mapping[str, str]] = {
    "tokenizer": {"CLIPTokenizer": TOKENIZER, "CLIPTokenizerFast": TOKENIZER},
    "text_encoder": {"CLIPTextModel": "transformers.models.clip.modeling_clip:CLIPTextModel"},
    "tokenizer_2": {"CLIPTokenizer": TOKENIZER, "CLIPTokenizerFast": TOKENIZER},
    "text_encoder_2": {
        "CLIPTextModelWithProjection": "transformers.models.clip.modeling_clip:CLIPTextModelWithProjection"
    },
    "vae": {
        "AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl:AutoencoderKL",
        "AutoencoderTiny": "diffusers.models.autoencoders.autoencoder_tiny:AutoencoderTiny",
        "AutoencoderKLTemporalDecoder": (
            "diffusers.models.autoencoders.autoencoder_kl_temporal_decoder:AutoencoderKLTemporalDecoder"
        ),
    },
    "unet": {
        "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition:UNet2DConditionModel",
        "UNetMotionModel": "diffusers.models.unets.unet_motion_model:UNetMotionModel",
    },
    "motion_adapter": {"MotionAdapter": "video_diffusion.models.motion_adapter:MotionAdapter"},
}
LIBRARIES = ("diffusers", "transformers")
MAX_TIMESTEPS = 100_000
SCHEDULE_RANGES = {
    "num_train_timesteps": (2, MAX_TIMESTEPS),
    "beta_start": (0, 1),
    "beta_end": (0, 1),
    "steps_offset": (0, MAX_TIMESTEPS),
}
MODEL_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "motion_adapter")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")


class Options(TypedDict):
    """How every component of one model is loaded."""

    dtype: torch.dtype
    allow_extra: bool
    variant: str | None


def load_model(
    model: str = "embedded",
    motion_adapter: str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    vae: str | None = None,
    text_encoder: str | None = None,
    allow_extra_weights: bool = False,
    on_bytes: OnBytes | None = None,
) -> ModelParts:
    """Load a model by name, checking every file on the way; see `find_model` for names.

    Args:
        model: "embedded", a folder or a hub id, in the layout of one of `PIPELINES`; or one file in Stable
            Diffusion's original layout.
        motion_adapter: A folder, a file or a hub id to take the temporal layers from; None takes the model's
            own, "none" switches them off: every frame is then an image of its own. An image model without
            gets temporal layers that do nothing, with a warning. If it is of a published family, that one's
            noise schedule and usual settings stand in place of the image model's. What it trained of the
            image U-Net besides (`temporal_and`, `image_lora`) comes with it.
        dtype: To convert the weights to.
        vae: Another autoencoder: a folder, the folder of a model that has one, a file or a hub id.
        text_encoder: Folder or hub id of a model whose text encoders and tokenizers are taken.
        allow_extra_weights: Whether tensors that the model does not have are left out instead of refused.
        on_bytes: Told while weights are read.

    Raises:
        ModelLoadError: One line saying which file is wrong, and how.

    >>> parts = load_model("embedded", dtype=torch.bfloat16)
    >>> parts.unet.dtype, parts.motion_adapter.max_num_frames
    (torch.bfloat16, 32)
    """
    source = find_model(model)
    folder = source.folder
    vae_source = None if vae is None else find_model(vae)
    text_source = None if text_encoder is None else find_model(text_encoder)
    switched_off = motion_adapter == NO_TEMPORAL_LAYERS
    adapter_source, motion = None, None
    if motion_adapter is not None and not switched_off:  # looked at before anything large is loaded
        adapter_source = find_model(motion_adapter)
        motion = detect(adapter_source.adapter_folder, variant=adapter_source.variant)
    defaults = read_defaults(folder / DEFAULTS_FILE) if (folder / DEFAULTS_FILE).is_file() else {}
    options: Options = {"dtype": dtype, "allow_extra": allow_extra_weights, "variant": source.variant}
    given = {"vae": vae_source, "text_encoder": text_source}
    with telling_bytes(on_bytes, _places_read(source, given, motion)):
        if folder.is_file():
            from video_diffusion.loading.single_file import load_single_file  # noqa: PLC0415  brings all converters

            components, adapter = (
                load_single_file(folder, dtype, given, allow_extra=allow_extra_weights),
                None,
            )
        else:
            components, adapter = _load_folder(folder, options, given)
        unet = components["unet"]
        if vae_source is not None:
            components["vae"] = load_vae(vae_source, unet, dtype, allow_extra=allow_extra_weights)
        if text_source is not None:
            own = options | {"variant": text_source.variant}
            components |= _load_text_encoders(text_source.folder, is_xl_unet(unet), own)
        trained = None if motion is None else load_motion(motion, dtype, allow_extra=allow_extra_weights)
    unet_changes = frozenset[str]()
    image_model = (dict(components["scheduler_config"]), dict(defaults))
    identity = ModelIdentity(
        name=source.name, weights_sha256=weights_sha256(source.folder), revision=source.revision
    )
    if adapter_source is not None and motion is not None and trained is not None:
        adapter = trained
        unet_changes = apply_unet_changes(unet, motion.path)
        components["scheduler_config"] |= motion.schedule
        defaults |= motion.defaults
        hashed = {"motion_adapter_sha256": weights_sha256(motion.path)}
        identity = identity.model_copy(update={"motion_adapter": adapter_source.name, **hashed})
    elif switched_off:
        positions = {} if adapter is None else {"max_num_frames": adapter.max_num_frames}
        adapter = MotionAdapter.for_unet(unet, norm_scope="clip", **positions)
        identity = identity.model_copy(update={"motion_adapter": NO_TEMPORAL_LAYERS})
    elif adapter is None:
        warnings.warn(
            f"{model} is an image model without temporal layers: frames will not be temporally consistent; "
            "set motion_adapter to make videos with it",
            stacklevel=3,
        )
        adapter = MotionAdapter.for_unet(unet, norm_scope="clip")
    else:
        components["scheduler_config"] |= distilled_schedule(adapter.config)
        defaults |= distilled_settings(adapter.config)
    parts = ModelParts(
        **components,
        motion_adapter=adapter,
        defaults=defaults,
        identity=identity,
        vae_name=vae,
        text_encoder_name=text_encoder,
        image_model=image_model,
        unet_changes=unet_changes,
    )
    _check_fit(parts, folder)
    return parts


def swap_motion_adapter(parts: ModelParts, motion_adapter: str) -> ModelParts:
    """The same model with other temporal layers, as `load_model` would load it, the rest not loaded again.

    Args:
        parts: The model; it stays as it is.
        motion_adapter: As for `load_model`; not None.

    Raises:
        ModelLoadError: It does not fit, or one of the two comes with a changed image U-Net.
        ValueError: The weights are quantised.
    """
    if parts.quantize is not None:
        raise ValueError("motion_adapter does not go with quantize here; load the model again with it")
    own = parts.image_model or (dict(parts.scheduler_config), dict(parts.defaults))
    scheduler_config, defaults = own
    hashed: dict[str, Any] = {"motion_adapter_sha256": None}
    has_changes = bool(parts.unet_changes)
    if motion_adapter == NO_TEMPORAL_LAYERS:
        positions = {"max_num_frames": parts.motion_adapter.max_num_frames}
        adapter = MotionAdapter.for_unet(parts.unet, norm_scope="clip", **positions)
        nn.Module.to(adapter, dtype=parts.unet.dtype)
    else:
        source = find_model(motion_adapter)
        motion = detect(source.adapter_folder, variant=source.variant)
        has_changes |= any((motion.path / name).is_file() for name in (EXTRAS_FILE, IMAGE_LORA_FILE))
        adapter = load_motion(motion, parts.unet.dtype)
        scheduler_config, defaults = scheduler_config | motion.schedule, defaults | motion.defaults
        hashed = {"motion_adapter_sha256": weights_sha256(motion.path)}
    if has_changes:
        raise ModelLoadError(
            f"{motion_adapter}: this adapter, or the one before it, came with a changed image U-Net "
            "(temporal_and, image_lora); load the model again with it"
        )
    swapped = replace(
        parts,
        motion_adapter=adapter,
        scheduler_config=scheduler_config,
        defaults=defaults,
        identity=parts.identity.model_copy(update={"motion_adapter": motion_adapter, **hashed}),
        image_model=own,
    )
    _check_fit(swapped, Path(parts.identity.name))
    return swapped


def _places_read(
    source: ModelSource, given: Mapping[str, ModelSource | None], motion: MotionFile | None
) -> Iterator[Path]:
    """Files and folders of components whose weights will be read."""
    for part in (source.folder,) if source.folder.is_file() else MODEL_PARTS:
        if isinstance(part, Path):
            yield part
        elif given.get(part.removesuffix("_2")) is None and (part != "motion_adapter" or motion is None):
            yield source.folder / part
    for name, other in given.items():
        if other is not None:
            parts = [other.folder / part for part in PARTS_OF_MODELS[name] if (other.folder / part).is_dir()]
            yield from parts or [other.folder]
    if motion is not None:
        yield motion.path


def needs_float32(parts: ModelParts, dtype: torch.dtype | None) -> bool:
    """Whether an autoencoder overflows in a precision: SDXL's own in float16, as its configuration says."""
    is_xl = parts.text_encoder_2 is not None
    return dtype == torch.float16 and is_xl and bool(getattr(parts.vae.config, "force_upcast", True))


def is_xl_unet(unet: UNet2DConditionModel) -> bool:
    """Whether an image U-Net is of Stable Diffusion XL's kind."""
    return unet.config.addition_embed_type == "text_time"


def load_vae(
    source: ModelSource, unet: UNet2DConditionModel, dtype: torch.dtype, *, allow_extra: bool = False
) -> VAE:
    """Load an autoencoder for an image U-Net, from diffusers' folder or a file in the original layout.

    Args:
        source: See `find_model`; of a whole model's folder its `vae` is taken.
        unet: Of the model. A file does not say how latents are scaled; the U-Net's kind does.
        dtype: To convert to; float16 is too narrow for SDXL's, unless its configuration says otherwise.
        allow_extra: Whether surplus tensors are left out instead of refused.

    Raises:
        ModelLoadError: One line saying which file or tensor is wrong.
    """
    place = source.folder / "vae" if (source.folder / "vae").is_dir() else source.folder
    if place.is_file():
        from video_diffusion.loading.single_file import load_vae_file  # noqa: PLC0415  brings all converters

        return load_vae_file(place, dtype, "sdxl" if is_xl_unet(unet) else "sd1", allow_extra=allow_extra)
    config = read_json(place / "config.json")
    named = config.get("_class_name", "AutoencoderKL")
    if not isinstance(named, str) or named not in KINDS["vae"]:
        raise ModelLoadError(f"{place}: must be a {' or '.join(KINDS['vae'])}, but names {shown(named)}")
    needs_range = is_xl_unet(unet) and config.get("force_upcast", True)
    dtype = torch.float32 if needs_range and dtype == torch.float16 else dtype
    kind = resolve_name(KINDS["vae"][named])
    return load_diffusers(kind, place, dtype, allow_extra=allow_extra, variant=source.variant)


def _load_text_encoders(folder: Path, is_xl: bool, options: Options) -> dict[str, Any]:
    """The text encoders and tokenizers of a model's folder, by their field of `ModelParts`."""
    index = read_json(folder / "model_index.json")
    components = {}
    for number in ("", "_2") if is_xl else ("",):
        encoder, tokenizer = f"text_encoder{number}", f"tokenizer{number}"
        if not (folder / encoder).is_dir():
            flag = "one with --text-encoder (text_encoder), the folder of a model that has it"
            raise ModelLoadError(f"{folder}: holds no {encoder}; give {flag}")
        components[tokenizer] = load_tokenizer(_kind(tokenizer, index, folder), folder / tokenizer)
        components[encoder] = load_text_encoder(_kind(encoder, index, folder), folder / encoder, **options)
    return components


def _load_folder(
    folder: Path, options: Options, given: Mapping[str, ModelSource | None]
) -> tuple[dict[str, Any], MotionAdapter | None]:
    """All components of a folder by their field of `ModelParts`, and its temporal layers if it has some."""
    file = folder / "model_index.json"
    index = read_json(file)
    named = index.get("_class_name")
    if named not in PIPELINES:
        raise ModelLoadError(f"{file}: must describe a {' or '.join(PIPELINES)}, but names {shown(named)}")
    scheduler_config = read_scheduler_config(folder / "scheduler" / "scheduler_config.json")
    unet_kind, adapter = _kind("unet", index, folder), None
    has_adapter = index.get("motion_adapter", [None, None]) != [None, None]
    unet = load_diffusers(unet_kind, folder / "unet", **options)
    if unet_kind.__name__ == "UNetMotionModel":
        own_config = read_json(folder / "motion_adapter" / "config.json") if has_adapter else {}
        unet, adapter = split_motion_unet(unet, own_config.get("norm_scope", "frame"))
    elif has_adapter:
        kind = _kind("motion_adapter", index, folder)
        adapter = load_diffusers(kind, folder / "motion_adapter", **options)
    is_xl = named in XL_PIPELINES
    components: dict[str, Any] = {"unet": unet, "scheduler_config": scheduler_config}
    if given["vae"] is None:
        if not (folder / "vae").is_dir():
            raise ModelLoadError(
                f"{folder}: holds no autoencoder; give one with --vae (vae), a folder or file"
            )
        _kind("vae", index, folder)
        own = ModelSource(str(folder), folder, variant=options["variant"])
        components["vae"] = load_vae(own, unet, options["dtype"], allow_extra=options["allow_extra"])
    if given["text_encoder"] is None:
        components |= _load_text_encoders(folder, is_xl, options)
    if is_xl:
        components["zeros_for_empty_prompt"] = bool(index.get("force_zeros_for_empty_prompt", True))
    return components, adapter


def _kind(component: str, index: Mapping[str, Any], folder: Path) -> Any:
    """The class of a component; only those of `KINDS`, so that a folder cannot name code of its own."""
    entry = index.get(component)
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if not isinstance(name, str) or library not in LIBRARIES or name not in KINDS[component]:
        raise ModelLoadError(
            f"{folder}/model_index.json: {component} must be {' or '.join(KINDS[component])} of diffusers or "
            f"transformers, but is {shown(entry)}; other code is never run"
        )
    return resolve_name(KINDS[component][name])


def read_scheduler_config(file: Path) -> dict[str, Any]:
    """Read the noise schedule that a model was trained with; one that cannot be is refused here."""
    config = read_json(file)
    for name, (lowest, highest) in SCHEDULE_RANGES.items():
        value = config.get(name, lowest)
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise ModelLoadError(
                f"{file}: {name} must be a number of {lowest:g}…{highest:g}, but is {shown(value)}"
            )
    usual = {
        name: field.default for name, field in inspect.signature(DDIMScheduler.__init__).parameters.items()
    }
    check_config(config, usual, MAX_TIMESTEPS, str(file))
    kinds = {"prediction_type": PREDICTION_TYPES, "timestep_spacing": TIMESTEP_SPACINGS}
    for name, known in kinds.items():
        if config.get(name, known[0]) not in known:
            raise ModelLoadError(
                f"{file}: {name} must be one of {', '.join(known)}, but is {shown(config[name])}"
            )
    betas, length = config.get("trained_betas"), int(config.get("num_train_timesteps", 1000))
    if betas is not None and not (
        isinstance(betas, list)
        and len(betas) == length
        and all(isinstance(beta, int | float) and 0 <= beta <= 1 for beta in betas)
    ):
        raise ModelLoadError(
            f"{file}: trained_betas must be {length} (num_train_timesteps) numbers of 0…1, "
            f"but is {shown(betas)}"
        )
    with libraries_said(f"{file}: makes no noise schedule"):
        kept = trained_schedule(config).alphas_cumprod
    if not float(kept[-2]) > 0:
        raise ModelLoadError(
            f"{file}: num_train_timesteps {length} with these betas leave nothing of an image long "
            "before the last step; 1000 is usual"
        )
    return config


def read_defaults(file: Path) -> dict[str, Any]:
    """Read a model's own generation settings, and the words that it knows."""
    values = read_json(file)
    words = values.get("vocabulary", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ModelLoadError(f"{file}: vocabulary must be a list of words, but is {shown(words)}")
    return values


def _check_fit(parts: ModelParts, folder: Path) -> None:
    """Refuse parts of different models."""
    try:
        list(temporal_places(parts.unet, parts.motion_adapter))
    except ValueError as error:
        raise ModelLoadError(f"{parts.identity.motion_adapter or folder}: {error}") from None
    encoders = [encoder for encoder in (parts.text_encoder, parts.text_encoder_2) if encoder is not None]
    width, expected = sum(each.config.hidden_size for each in encoders), parts.unet.config.cross_attention_dim
    if width != expected:
        raise ModelLoadError(
            f"{folder}: its U-Net reads text embeddings of width {expected}, but its text encoder makes "
            f"{width}; the parts belong to different models"
        )
    channels, latent_channels = parts.unet.config.in_channels, parts.vae.config.latent_channels
    if channels != latent_channels:
        raise ModelLoadError(
            f"{folder}: its U-Net takes {channels} channels, but its autoencoder makes {latent_channels}; "
            "inpainting models and parts of different models cannot be used"
        )


# A whole model to a folder that this project and `diffusers.AnimateDiffPipeline` open.


def save_model(parts: ModelParts, folder: Path | str, overwrite: bool = True) -> None:
    """Write all parts in the layout of `AnimateDiffPipeline`, or `AnimateDiffSDXLPipeline` for an SDXL model.

    The weights are safetensors, in their present precision.

    Args:
        parts: The model; its image U-Net is written as the image model that it is.
        folder: Appears only when it is complete.
        overwrite: False refuses an existing folder.

    Raises:
        FileExistsError: See `overwrite`.
        OSError: No space, no permission.
        ValueError: The weights are quantised.
    """
    if parts.quantize is not None:
        raise ValueError(
            f"quantised weights cannot be written; load the model without quantize {parts.quantize}"
        )
    scheduler = parts.scheduler_config.get("_class_name", "DDIMScheduler")
    index: dict[str, Any] = {
        "_class_name": "AnimateDiffPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "motion_adapter": ["diffusers", "MotionAdapter"],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", type(parts.text_encoder).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(parts.vae).__name__],
    }
    names = ["tokenizer", "text_encoder", "unet", "motion_adapter", "vae"]
    if parts.text_encoder_2 is not None:
        names += ["tokenizer_2", "text_encoder_2"]
        index |= {
            "_class_name": "AnimateDiffSDXLPipeline",
            "text_encoder_2": ["transformers", type(parts.text_encoder_2).__name__],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": parts.zeros_for_empty_prompt,
        }
    with atomic_path(folder, overwrite=overwrite) as part, quiet_libraries():
        part.mkdir()
        for name in names:
            getattr(parts, name).save_pretrained(part / name)
        (part / "scheduler").mkdir()
        scheduler_config = {"_class_name": scheduler} | dict(parts.scheduler_config)
        _write(part / "scheduler" / "scheduler_config.json", scheduler_config)
        _write(part / "model_index.json", index)
        if parts.defaults:
            _write(part / DEFAULTS_FILE, parts.defaults)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
