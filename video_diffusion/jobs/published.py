"""Prompt files of other programs turned into ours: AnimateDiff's YAML, animatediff-cli-prompt-travel's JSON.

Each field of the file is kept, translated, or named as not supported; nothing is dropped in silence.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ruamel.yaml import YAML

from video_diffusion.settings import (
    ConfigError,
    GenerationSettings,
    Layer,
    read_json_file,
    read_yaml,
    reads_syntax,
    shown,
    validate,
)

Fate = Literal["kept", "translated", "not supported"]

MAX_FILE_BYTES = 1_000_000
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LARGEST_SEED = 2**63 - 1
# Published weights by file name, as diffusers' layout has them on the hub.
ON_THE_HUB: Mapping[str, str] = {
    "mm_sd_v14": "guoyww/animatediff-motion-adapter-v1-4",
    "mm_sd_v15": "guoyww/animatediff-motion-adapter-v1-5",
    "mm_sd_v15_v2": "guoyww/animatediff-motion-adapter-v1-5-2",
    "v3_sd15_mm": "guoyww/animatediff-motion-adapter-v1-5-3",
    "mm_sdxl_v10_beta": "guoyww/animatediff-motion-adapter-sdxl-beta",
    "v2_lora_ZoomIn": "guoyww/animatediff-motion-lora-zoom-in",
    "v2_lora_ZoomOut": "guoyww/animatediff-motion-lora-zoom-out",
    "v2_lora_PanLeft": "guoyww/animatediff-motion-lora-pan-left",
    "v2_lora_PanRight": "guoyww/animatediff-motion-lora-pan-right",
    "v2_lora_TiltUp": "guoyww/animatediff-motion-lora-tilt-up",
    "v2_lora_TiltDown": "guoyww/animatediff-motion-lora-tilt-down",
    "v2_lora_RollingClockwise": "guoyww/animatediff-motion-lora-rolling-clockwise",
    "v2_lora_RollingAnticlockwise": "guoyww/animatediff-motion-lora-rolling-anticlockwise",
    "v3_sd15_sparsectrl_rgb": "guoyww/animatediff-sparsectrl-rgb",
    "v3_sd15_sparsectrl_scribble": "guoyww/animatediff-sparsectrl-scribble",
}
PICKLES = {".ckpt", ".pt", ".pth", ".bin"}


@dataclass
class Converted:
    """What a prompt file became.

    Attributes:
        program: Whose file it was.
        clips: Settings of each clip that it asks for.
        fates: What became of each of its fields, and a word about it.
    """

    program: str
    clips: list[dict[str, Any]] = field(default_factory=list)
    fates: dict[str, tuple[Fate, str]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether everything that the file asks for was turned into settings."""
        return all(fate != "not supported" for fate, _ in self.fates.values())

    def note(self, name: str, fate: Fate, about: str = "") -> None:
        """Say what became of a field; of several sections the worst is told."""
        order: list[Fate] = ["kept", "translated", "not supported"]
        before = self.fates.get(name, ("kept", ""))
        if order.index(fate) >= order.index(before[0]):
            self.fates[name] = (fate, about)


def convert_prompts(path: Path) -> Converted:
    """Read a prompt file of AnimateDiff (YAML) or animatediff-cli-prompt-travel (JSON).

    Args:
        path: The file.

    Raises:
        ConfigError: It is neither, or asks for what no clip can have.
    """
    values = _read(path)
    read: list[tuple[str, Any]] = []
    try:
        converted = _converted(values, path, read)
    except ConfigError as error:
        where = "" if str(error).startswith(f"{path}: ") else f"{path}: "
        raise ConfigError(f"{where}{error}") from None
    except Exception:  # whatever a value of another kind leads to
        name, value = read[-1] if read else ("a field", None)
        raise ConfigError(
            f"{path}: {name} holds something else than its program writes (given {shown(value)})"
        ) from None
    for clip in converted.clips:
        validate(GenerationSettings, Layer(clip, {(name,): str(path) for name in clip}))
    return converted


class _Fields(dict[str, Any]):
    """A section that notes which field is read: if that breaks, it is the one to name."""

    def __init__(self, values: Mapping[str, Any], read: list[tuple[str, Any]]) -> None:
        super().__init__(values)
        self.read = read

    def __getitem__(self, name: str) -> Any:
        self.read.append((name, super().get(name)))
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or the default."""
        self.read.append((name, super().get(name)))
        return super().get(name, default)


def _converted(values: Any, path: Path, read: list[tuple[str, Any]]) -> Converted:
    is_list = isinstance(values, list) and bool(values)
    if is_list and all(isinstance(each, dict) and "prompt" in each for each in values):
        converted = Converted("AnimateDiff")
        for section in values:
            given = {name: value for name, value in section.items() if value is not None and value != ""}
            _animatediff(given, _Fields({**ANIMATEDIFF_USUAL, **given}, read), converted)
    elif isinstance(values, dict) and {"prompt", "prompt_map"} & values.keys() and "motion_module" in values:
        converted = Converted("animatediff-cli-prompt-travel")
        _prompt_travel(_Fields(values, read), converted)
    else:
        raise ConfigError(
            f"{path}: is neither a prompt file of AnimateDiff (a list of sections with prompt) nor one of "
            "animatediff-cli-prompt-travel (prompt_map and motion_module); settings of ours stay as they are"
        )
    return converted


def written(converted: Converted, source: str) -> str:
    """The text of the file: settings of one clip, or what they share and a row for each of several."""
    clips = converted.clips
    first = clips[0]
    shared = {name: value for name, value in first.items() if all(clip.get(name) == value for clip in clips)}
    values: dict[str, Any] = dict(first)
    if len(clips) > 1:
        rows = [{name: value for name, value in clip.items() if name not in shared} for clip in clips]
        values = {**shared, "jobs": rows}
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 2**30
    yaml.representer.ignore_aliases = lambda value: True
    yaml.dump(values, stream)
    lost = [f"{name}: {about}" for name, (fate, about) in converted.fates.items() if fate == "not supported"]
    head = [f"# From {PurePosixPath(source).name}, a prompt file of {converted.program}."]
    head += [f"# Not supported: {line}" for line in lost]
    return "\n".join(head) + "\n" + stream.getvalue()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if path.suffix.lower() != ".json":
        return read_yaml(path)
    try:
        return read_json_file(path, strict=False, max_bytes=MAX_FILE_BYTES)
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); save it again as UTF-8") from None


# AnimateDiff: a list of sections, each with several prompts and their seeds (scripts/animate.py).


ANIMATEDIFF_USUAL = {"W": 512, "H": 512, "L": 16}


def _animatediff(given: Mapping[str, Any], section: _Fields, converted: Converted) -> None:
    """Turn a section, `given` as its file has it and filled up with what its program does without it."""
    note = converted.note
    own: dict[str, Any] = {"num_frames": section["L"], "width": section["W"], "height": section["H"]}
    own["model"] = str(section.get("dreambooth_path", BASE))
    if "dreambooth_path" in section:
        note("dreambooth_path", "kept", "as model")
    own["motion_adapter"] = _weights(section, "motion_module", converted)
    loras = []
    for lora in section.get("motion_module_lora_configs", ()):
        loras.append(f"{_hub_name(lora['path'])}:{lora.get('alpha', 1.0):g}")
        note("motion_module_lora_configs", "translated", f"{Path(lora['path']).name} as {loras[-1]}")
    for path, scale, usual in (
        ("adapter_lora_path", "adapter_lora_scale", 1.0),
        ("lora_model_path", "lora_alpha", 0.8),
    ):
        if path in section:
            loras.append(f"{_weights(section, path, converted)}:{section.get(scale, usual):g}")
        if scale in section:
            note(scale, "kept", "as the LoRA's weight")
    if loras:
        own["loras"] = loras
    own |= _numbers(section, ("steps", "guidance_scale"), converted)
    own["scheduler"] = "ddim"
    if "controlnet_path" in section:
        own |= _sparse_control(section, converted)
    for name in given.keys() & ANIMATEDIFF_USUAL.keys():
        note(name, "kept")
    note("inference_config", "kept", "follows from the motion module")
    prompts = [str(prompt) for prompt in section["prompt"]]
    negatives = _for_each(section.get("n_prompt", [""]), len(prompts))
    seeds = _for_each(section.get("seed", -1), len(prompts))
    note("prompt", "kept")
    note("n_prompt", "kept", "as negative_prompt")
    if any(map(reads_syntax, map(str, [*prompts, *negatives]))):
        own["prompt_syntax"] = "plain"
        note("prompt", "kept", "as letters (prompt_syntax: plain), as AnimateDiff reads brackets")
    for prompt, negative, seed in zip(prompts, negatives, seeds, strict=False):
        clip = {"prompt": prompt, "negative_prompt": str(negative or ""), **own}
        converted.clips.append(clip | _seed(seed, converted))
    known = {
        *ANIMATEDIFF_USUAL, "dreambooth_path", "motion_module", "motion_module_lora_configs",
        "adapter_lora_path", "adapter_lora_scale", "lora_model_path", "lora_alpha", "steps", "guidance_scale",
        "controlnet_path", "controlnet_config", "controlnet_images", "controlnet_image_indexs",
        "inference_config", "prompt", "n_prompt", "seed",
    }  # fmt: skip
    _rest(section, known, converted)


def _sparse_control(section: Mapping[str, Any], converted: Converted) -> dict[str, Any]:
    images = section.get("controlnet_images", [])
    images = [images] if isinstance(images, str) else images
    places = section.get("controlnet_image_indexs", [0])
    converted.note("controlnet_images", "kept", "as sparse_images, with controlnet_image_indexs")
    converted.note("controlnet_image_indexs", "kept")
    converted.note("controlnet_config", "kept", "follows from the encoder's file")
    return {
        "sparsectrl": _weights(section, "controlnet_path", converted),
        "sparse_images": {str(place): path for place, path in zip(places, images, strict=False)},
    }


def _numbers(values: Mapping[str, Any], names: Sequence[str], converted: Converted) -> dict[str, Any]:
    """Fields that mean the same here, some under another name."""
    found = {}
    for name in names:
        if name in values:
            ours = {"steps": "num_inference_steps"}.get(name, name)
            found[ours] = values[name]
            converted.note(name, "kept", "" if name == ours else f"as {ours}")
    return found


def _for_each(value: Any, count: int) -> list[Any]:
    """One value for each prompt, from a list of as many, or of one for all."""
    values = list(value) if isinstance(value, list) else [value]
    return values * count if len(values) == 1 else values


def _seed(seed: Any, converted: Converted) -> dict[str, Any]:
    if seed == -1:
        converted.note("seed", "translated", "-1 is another clip each time; seed 0 here")
        return {"seed": 0}
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed must be a number from 0, or -1, but is {shown(seed)}")
    about = "but noise is drawn frame by frame here, so the clip is another one"
    if seed > LARGEST_SEED:
        converted.note("seed", "translated", f"modulo 2^63, {about}")
        return {"seed": seed % 2**63}
    converted.note("seed", "kept", about)
    return {"seed": seed}


def _hub_name(path: str) -> str:
    """Where published weights lie on the hub; of others the file itself, safetensors in place of a pickle."""
    place = PurePosixPath(str(path))
    if place.stem in ON_THE_HUB:
        return ON_THE_HUB[place.stem]
    return str(place.with_suffix(".safetensors")) if place.suffix in PICKLES else str(place)


def _weights(section: Mapping[str, Any], name: str, converted: Converted) -> str:
    """The weights that a field names, as a setting of ours."""
    path = str(section[name])
    found = _hub_name(path)
    if found == path:
        converted.note(name, "kept")
    elif PurePosixPath(path).stem in ON_THE_HUB:
        converted.note(name, "translated", f"{PurePosixPath(path).name} as {found}")
    else:
        command = f"video-diffusion convert {path} {found} --allow-pickle"
        converted.note(name, "translated", f"as safetensors; once: {command}")
    return found


def _rest(section: Mapping[str, Any], known: set[str], converted: Converted) -> None:
    for name in section.keys() - known:
        converted.note(name, "not supported", f"no such field is known (given {shown(section[name], 40)})")


# animatediff-cli-prompt-travel: one mapping, whose prompts travel (src/animatediff/settings.py, generate.py).


TRAVEL_SCHEDULERS: Mapping[str, str] = {
    "ddim": "ddim", "euler": "euler", "euler_a": "euler_a", "heun": "heun", "unipc": "unipc", "lcm": "lcm",
    "dpmpp_2m": "dpmpp_2m", "k_dpmpp_2m": "dpmpp_2m_karras", "k_dpmpp": "dpmpp_2m_karras",
    "dpmpp_2m_sde": "dpmpp_sde", "dpmpp_sde": "dpmpp_sde", "k_dpmpp_sde": "dpmpp_sde",
    "k_dpmpp_2m_sde": "dpmpp_sde",
}  # fmt: skip
SAME_SCHEDULERS = {"ddim", "euler", "euler_a", "heun", "unipc", "lcm", "dpmpp_2m", "dpmpp_2m_sde"}
TRAVEL_FRAMES = 16  # -L and -C of its command line
IDLE = {
    "name": "a label",
    "base": "the image model that its program takes anyway",
    "lora_alpha": "its program no longer reads it",
    "compile": "speed alone; --compile here",
    "unet_batch_size": "memory alone",
    "upscale_config": "of its program's own command tile-upscale, not of this clip",
    "output": "",
    "result": "what its program wrote",
}
"""Fields that change nothing of the clip."""


def _prompt_travel(values: _Fields, converted: Converted) -> None:
    note = converted.note
    own: dict[str, Any] = {"num_frames": TRAVEL_FRAMES, "width": 512, "height": 512, "fps": 8}
    own["model"] = str(values.get("path") or BASE)
    note("path", "kept", "as model")
    own["motion_adapter"] = _weights(values, "motion_module", converted)
    own |= _numbers(values, ("steps", "guidance_scale", "clip_skip"), converted)
    own |= _travel_scheduler(values, converted)
    own |= _travel_loras(values, converted)
    output = values.get("output") or {}
    if isinstance(output.get("fps"), int | float):
        own["fps"] = output["fps"]
    _travel_networks(values, own, converted)
    for name, about in IDLE.items():
        if name in values:
            note(name, "kept", about)
    if values.get("vae_path"):
        note("vae_path", "not supported", "give it as --vae where this version has it")
    negatives = [str(text) for text in values.get("n_prompt", [""])]
    note("n_prompt", "kept", "as negative_prompt")
    seeds = [-1] if not values.get("seed") else _for_each(values["seed"], 1)
    if "prompt_map" in values:
        travel = _travel_prompts(values, converted)
        clips = [own | travel | {"negative_prompt": negatives[0] if negatives else ""}]
    else:
        prompts = [str(prompt) for prompt in values["prompt"]]
        note("prompt", "kept")
        texts = _for_each(negatives or [""], len(prompts))
        clips = [
            own | {"prompt": prompt, "negative_prompt": negative}
            for prompt, negative in zip(prompts, texts, strict=False)
        ]
    for number, clip in enumerate(clips):
        converted.clips.append(clip | _seed(seeds[number % len(seeds)], converted))
    known = {
        "path", "motion_module", "steps", "guidance_scale", "clip_skip", "scheduler", "lora_map",
        "motion_lora_map", "prompt", "prompt_map", "head_prompt", "tail_prompt", "n_prompt",
        "prompt_fixed_ratio", "seed", "vae_path", "tensor_interpolation_slerp", "is_single_prompt_mode",
        *IDLE, *NETWORKS,
    }  # fmt: skip
    _rest(values, known, converted)


def _travel_loras(values: Mapping[str, Any], converted: Converted) -> dict[str, Any]:
    loras = []
    for name in values.keys() & {"lora_map", "motion_lora_map"}:
        weights = values[name] or {}
        loras += [f"{_hub_name(path)}:{w:g}" for path, w in weights.items() if isinstance(w, int | float)]
        if all(isinstance(weight, int | float) for weight in weights.values()):
            converted.note(name, "kept", "as loras" if weights else "empty")
        else:
            converted.note(name, "not supported", "a LoRA for regions, or one whose weight changes")
    return {"loras": sorted(loras)} if loras else {}


def _travel_scheduler(values: Mapping[str, Any], converted: Converted) -> dict[str, Any]:
    name = str(values.get("scheduler", "k_dpmpp_2m"))
    if name not in TRAVEL_SCHEDULERS:
        converted.note("scheduler", "not supported", f"{name}; the model's own is taken")
        return {}
    ours = TRAVEL_SCHEDULERS[name]
    if name in SAME_SCHEDULERS or name == "k_dpmpp_2m":
        converted.note("scheduler", "kept", "" if name == ours else f"as {ours}")
    else:
        converted.note("scheduler", "translated", f"{name} as {ours}, the nearest there is")
    return {"scheduler": ours}


def _travel_prompts(values: Mapping[str, Any], converted: Converted) -> dict[str, Any]:
    """Prompts by frame; each holds for a share of the way to the next one, around the end of the clip."""
    note = converted.note
    texts = {int(frame): str(text) for frame, text in values["prompt_map"].items()}
    frames = sorted(texts)
    gap = frames[-1] - frames[-2] if len(frames) > 1 else TRAVEL_FRAMES
    num_frames = frames[-1] + gap
    about = f"num_frames {num_frames} from it, which its command line says (-L)" if len(frames) > 1 else ""
    note("prompt_map", "kept" if len(frames) == 1 else "translated", about or "as prompt")
    found: dict[str, Any] = {"num_frames": num_frames}
    if num_frames > TRAVEL_FRAMES:
        found |= {"context_length": TRAVEL_FRAMES, "loop": True}
    head, tail = str(values.get("head_prompt") or ""), str(values.get("tail_prompt") or "")
    if not all(texts.values()):  # a prompt of ours is never empty
        texts = {frame: ", ".join(filter(None, (head, text, tail))) for frame, text in texts.items()}
        head = tail = ""
    for name, ours in (("head_prompt", "prompt_head"), ("tail_prompt", "prompt_tail")):
        if name in values:
            note(name, "kept", f"as {ours}")
    if head:
        found["prompt_head"] = f"{head},"
    if tail:
        found["prompt_tail"] = f", {tail}"
    if len(frames) == 1:
        note("prompt_fixed_ratio", "kept", "one prompt holds throughout")
        return found | {"prompt": texts[frames[0]]}
    ratio = min(max(float(values.get("prompt_fixed_ratio", 0.5)), 0.0), 1.0)
    placed = dict(texts)
    for frame, after in zip(frames, [*frames[1:], num_frames], strict=True):
        held = min(frame + round((after - frame) * ratio), after - 1)
        placed[held] = texts[frame]
    note("prompt_fixed_ratio", "translated", "as further keyframes")
    note("tensor_interpolation_slerp", "kept", "as prompt_blend")
    if values.get("is_single_prompt_mode"):
        note("is_single_prompt_mode", "not supported", "every frame has its own prompt here")
    slerp = values.get("tensor_interpolation_slerp", True)
    travel = {str(frame): placed[frame] for frame in sorted(placed)}
    return found | {
        "prompt": texts[frames[0]], "prompt_travel": travel, "prompt_blend": "slerp" if slerp else "lerp",
    }  # fmt: skip


NETWORKS = (
    "controlnet_map", "ip_adapter_map", "img2img_map", "region_map", "lcm_map", "stylize_config",
    "gradual_latent_hires_fix_map", "context_schedule",
)  # fmt: skip


def _travel_networks(values: Mapping[str, Any], own: dict[str, Any], converted: Converted) -> None:
    """What steers a clip besides prompts."""
    note = converted.note
    steered = values.get("controlnet_map") or {}
    nets = [name for name, net in steered.items() if isinstance(net, dict) and net.get("enable")]
    if steered:
        place = steered.get("input_image_dir")
        if nets and place:
            note(
                "controlnet_map", "not supported",
                f"each network reads its own folder in {place}; give those that hold frames as --controlnet "
                f"NETWORK --control-video {place}/{nets[0]}",
            )  # fmt: skip
        else:
            note("controlnet_map", "kept", "names no folder of frames, so nothing is steered")
    for name, about in (
        ("ip_adapter_map", "give its adapter and images as --ip-adapter FILE --ip-image 'FRAME: IMAGE'"),
        ("lcm_map", "give its weights with --scheduler lcm, as configs/generate/animatelcm.yaml does"),
        ("gradual_latent_hires_fix_map", "sizes that grow along the steps"),
    ):
        if name in values:
            is_on = bool((values[name] or {}).get("enable"))
            note(name, "not supported" if is_on else "kept", about if is_on else "switched off")
    regions = [
        name for name, region in (values.get("region_map") or {}).items()
        if isinstance(region, dict) and region.get("enable")
    ]  # fmt: skip
    if "region_map" in values:
        about = "prompts for regions" if regions else "switched off"
        note("region_map", "not supported" if regions else "kept", about)
    if "stylize_config" in values:
        note("stylize_config", "kept", "of its program's own command stylize, not of this clip")
    if "context_schedule" in values:
        is_uniform = values["context_schedule"] == "uniform"
        note("context_schedule", "kept" if is_uniform else "not supported", str(values["context_schedule"]))
    start = values.get("img2img_map") or {}
    if start.get("enable") and start.get("init_img_dir"):
        strength = float(start.get("denoising_strength", 0.7))
        own |= {"init_video": str(start["init_img_dir"]), "strength": strength}
        note("img2img_map", "kept", "as init_video and strength")
    elif "img2img_map" in values:
        note("img2img_map", "kept", "switched off")
