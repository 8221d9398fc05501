"""What is trained and what is not: the temporal layers, a LoRA on them, or a LoRA on the image U-Net."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from video_diffusion.loading import ModelParts, load_loras, parse_lora
from video_diffusion.loading.components import EXTRAS_FILE, IMAGE_LORA_FILE
from video_diffusion.loading.lora import read_lora
from video_diffusion.loading.motion_weights import LowRank
from video_diffusion.models import MotionAdapter
from video_diffusion.settings.training import LoraSettings, TrainingSettings

ADAPTER_FOLDER, MOTION_LORA_FOLDER, DOMAIN_LORA_FOLDER = "motion_adapter", "motion_lora", "domain_lora"
LORA_FILE = "pytorch_lora_weights.safetensors"
ATTENTION = r".*\.attn[12]\.to_(q|k|v|out\.0)"
LORA_LAYERS = {
    "attention": ATTENTION,
    "attention_and_feed_forward": rf"{ATTENTION}|.*\.ff\.net\.(0\.proj|2)",
}
NUM_NAMED = 5
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_target(settings: TrainingSettings) -> None:
    """Refuse a LoRA where the package that makes its layers is missing."""
    if (settings.target != "temporal" or settings.image_lora) and find_spec("peft") is None:
        what = "image_lora" if settings.image_lora else f"target {settings.target}"
        raise ValueError(
            f"{what} needs peft, which is not installed; pip install 'video-diffusion[train]', or set "
            "target temporal without image_lora"
        )


class Target:
    """The trained parameters of a model; everything else is frozen.

    Making one freezes the model's parts, and puts LoRA layers into them if the target is one.

    Args:
        parts: The model.
        settings: Say which target.

    Attributes:
        parameters: Those that are trained, by name.
        domain_lora: Hash and weight of the domain LoRA in effect, or None.

    Raises:
        ValueError: `temporal_and` matches no parameter; the message names near misses.
    """

    def __init__(self, parts: ModelParts, settings: TrainingSettings) -> None:
        self.parts, self.settings = parts, settings
        self.domain_lora = None
        # What the adapter that this run begins with changed in the image U-Net belongs to the new one too.
        self.carried = {
            name: parameter.detach().cpu().clone()
            for name, parameter in parts.unet.named_parameters()
            if name in parts.unet_changes and settings.target == "temporal"
        }
        if settings.domain_lora is not None:
            self.domain_lora = merge_domain_lora(parts, settings.domain_lora)
        for part in parts.networks:
            part.requires_grad_(False)
            part.eval()
        extras: dict[str, nn.Parameter] = {}
        match settings.target:
            case "temporal":
                parts.motion_adapter.requires_grad_(True)
                if settings.temporal_and is not None:
                    extras = matching_parameters(parts.unet, settings.temporal_and)
                if settings.image_lora:
                    add_lora(parts, parts.unet, settings.lora, settings.seed)
            case "motion_lora":
                add_lora(parts, parts.motion_adapter, settings.lora, settings.seed)
            case "domain_lora":
                add_lora(parts, parts.unet, settings.lora, settings.seed)
        for parameter in extras.values():
            parameter.requires_grad_(True)
        self.extras = extras
        self.parameters = {
            f"{owner}.{name}": parameter
            for owner, module in (("motion_adapter", parts.motion_adapter), ("unet", parts.unet))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        if settings.mixed_precision != "no":
            for module in (parts.unet, parts.motion_adapter):
                halve_frozen(module, HALVES[settings.mixed_precision])

    @property
    def lora_module(self) -> nn.Module | None:
        """The part that has LoRA layers, if any."""
        if self.settings.image_lora or self.settings.target == "domain_lora":
            return self.parts.unet
        return None if self.settings.target == "temporal" else self.parts.motion_adapter

    def save(self, folder: Path) -> None:
        """Write the weights as they are now, for use: an adapter or a LoRA, in diffusers' layout."""
        match self.settings.target:
            case "temporal":
                self.parts.motion_adapter.save_pretrained(folder / ADAPTER_FOLDER)
                trained = {name: p.detach().cpu().contiguous() for name, p in self.extras.items()}
                if changed := self.carried | trained:
                    save_file(changed, folder / ADAPTER_FOLDER / EXTRAS_FILE)
                if self.settings.image_lora:
                    _save_lora(self.parts.unet, self.settings, folder / ADAPTER_FOLDER / IMAGE_LORA_FILE)
            case "motion_lora":
                file = folder / MOTION_LORA_FOLDER / LORA_FILE
                _save_lora(self.parts.motion_adapter, self.settings, file)
            case "domain_lora":
                _save_lora(self.parts.unet, self.settings, folder / DOMAIN_LORA_FOLDER / LORA_FILE)


@torch.no_grad()
def halve_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen matrices and kernels of a network in half precision.

    Under autocast each product would round them so anyway: the numbers stay the same, the memory halves.
    """
    for parameter in module.parameters():
        if not parameter.requires_grad and parameter.ndim >= 2:
            parameter.data = parameter.data.to(dtype)


def matching_parameters(unet: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters of the image U-Net whose name a regular expression finds (`re.search`)."""
    named = dict(unet.named_parameters())
    found = {name: parameter for name, parameter in named.items() if re.search(pattern, name)}
    if not found:
        raise _nothing_matches("temporal_and", pattern, list(named), "parameters of the image U-Net")
    return found


def _nothing_matches(setting: str, pattern: str, names: Sequence[str], what: str) -> ValueError:
    plain = re.sub(r"[\\^$*+?()\[\]{}|]", "", pattern)
    near = difflib.get_close_matches(plain, names, n=NUM_NAMED, cutoff=0.0)
    return ValueError(
        f"{setting} {pattern!r} matches none of the {len(names)} {what}; the nearest are {', '.join(near)}"
    )


def add_lora(parts: ModelParts, module: nn.Module, lora: LoraSettings, seed: int) -> None:
    """Put LoRA layers, the identity or those of `lora.init` at first, into a module's linear layers.

    Raises:
        ValueError: `lora.target_modules` names no layer, or `lora.init` has another rank or other layers.
    """
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  an extra that only LoRA needs

    layers = LORA_LAYERS.get(lora.target_modules, lora.target_modules)
    linear = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    chosen = {name for name in linear if re.fullmatch(layers, name)}
    if not chosen:
        raise _nothing_matches("lora.target_modules", layers, linear, "linear layers")
    pairs = {} if lora.init is None else _lora_to_go_on_from(parts, lora, module, chosen)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or lora.rank,
        lora_dropout=lora.dropout,
        target_modules=layers,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for layer, pair in pairs.items():
            parameters[f"{layer}.lora_A.default.weight"].copy_(pair.down)
            parameters[f"{layer}.lora_B.default.weight"].copy_(pair.up * (pair.scale / lora.factor))


def _lora_to_go_on_from(
    parts: ModelParts, lora: LoraSettings, module: nn.Module, chosen: Collection[str]
) -> dict[str, LowRank]:
    """The corrections of `lora.init`, which must fit those that are to be trained."""
    assert lora.init is not None
    pairs = read_lora(parts, lora.init)
    other = sorted(pairs.keys() - chosen)
    if other:
        raise ValueError(
            f"lora.init {lora.init} corrects {other[0]} (and {len(other) - 1} more), which this run does "
            "not; set target and lora.target_modules as it was trained"
        )
    sizes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for layer, pair in pairs.items():
        if len(pair.down) != lora.rank:
            raise ValueError(
                f"lora.rank is {lora.rank}, but lora.init {lora.init} has {len(pair.down)}; set that"
            )
        if sizes[f"{layer}.weight"] != (len(pair.up), pair.down.shape[1]):
            raise ValueError(f"lora.init {lora.init} is of another model: {layer} has other sizes there")
    return pairs


def lora_tensors(module: nn.Module, factor: float) -> dict[str, Tensor]:
    """A module's LoRA in diffusers' layout, its factor alpha / rank multiplied in.

    Many programs know no alpha and apply up · down as it is; with the factor inside they are right.
    """
    found = {}
    for name, parameter in module.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            scaled = parameter.detach() * (factor if ".lora_B." in name else 1.0)
            found[f"unet.{name.replace('.default.', '.')}"] = scaled.cpu().contiguous()
    return found


def merge_domain_lora(parts: ModelParts, place: str) -> str:
    """Merge a trained domain LoRA into the image U-Net for good; returns its hash and weight."""
    path, weight = parse_lora(place)
    loaded = load_loras(parts, [(path, weight)])
    [lora] = loaded.loras
    changed = [part for part in parts.networks if getattr(part, "peft_config", None)]
    if lora.num_temporal or changed != [parts.unet]:
        loaded.unload()
        raise ValueError(
            f"domain_lora {place}: must change the image U-Net alone; give a run of target domain_lora"
        )
    parts.unet.fuse_lora()
    parts.unet.unload_lora()
    return f"{lora.sha256} weighted {weight:g}"


@contextmanager
def set_temporarily(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give parameters other values inside the block, such as the averaged ones; bit for bit back after."""
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def record_noise(adapter: MotionAdapter, settings: TrainingSettings) -> None:
    """Write into an adapter's configuration which noise it is trained with, for sampling to use the same."""
    loss = settings.loss
    asked = {
        "noise_type": loss.noise_type,
        "noise_alpha": loss.noise_alpha,
        "zero_terminal_snr": loss.zero_terminal_snr,
    }
    own = {name: adapter.config[name] for name in asked}
    differing = [name for name in asked if asked[name] != own[name]]
    if settings.target == "motion_lora" and differing:
        name = differing[0]
        raise ValueError(
            f"loss.{name} is {asked[name]}, but a motion LoRA is used with its adapter, whose clips are made "
            f"with {own[name]}; set that"
        )
    adapter.register_to_config(**asked)


def _save_lora(module: nn.Module, settings: TrainingSettings, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_tensors(module, settings.lora.factor), file, {"format": "pt"})
