"""What can be to blame for a clip that does not hold together: every part, and what is changed to tell."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from video_diffusion.settings import SETTINGS, GenerationSettings
from video_diffusion.settings.generation import AN_INPUT
from video_diffusion.settings.resolved import (
    USUAL_IMAGE_STRENGTH,
    USUAL_REFINE_STRENGTH,
    USUAL_VIDEO_STRENGTH,
)

Part: TypeAlias = Literal[
    "denoiser", "decoder", "encoder", "window seams", "temporal layers", "guidance", "steps and scheduler",
    "speed and precision", "noise", "LoRA", "ControlNet", "IP-Adapter", "prompt travel", "input",
]  # fmt: skip
STAGES: tuple[Part, ...] = ("encoder", "decoder", "denoiser", "input")
"""Parts that are told from finished latents and files alone; no clip is denoised again for them."""

OFF: Mapping[str, Any] = {
    "context_length": None, "context_overlap": None, "context_stride": 1, "context_schedule": "uniform",
    "context_fuse": "pyramid", "freenoise": False,
}  # fmt: skip
"""Of windows: a clip made in one pass."""
CONTROL_LISTS = ("controlnet", "control_video", "control_make", "controlnet_scale", "controlnet_steps")
USUAL_STRENGTHS = {
    "init_video": USUAL_VIDEO_STRENGTH, "init_image": USUAL_IMAGE_STRENGTH, "refine": USUAL_REFINE_STRENGTH,
}  # fmt: skip
EFFECTS = (1.25, 0.5, 0.0)
INTERVAL = [0.1, 0.8]


@dataclass(frozen=True)
class Change:
    """A part changed: the settings under which the clip is made again, with the same noise.

    Attributes:
        part: That is looked at.
        label: In a few words, as the report shows it.
        values: Settings by name, where they differ from the clip's.
        cost: Denoising time, as a multiple of the clip's own.
        is_remedy: Whether it adds something; then what it takes away is no fault of the part.
    """

    part: Part
    label: str
    values: Mapping[str, Any]
    cost: float = 1.0
    is_remedy: bool = False


def changes_of(own: GenerationSettings, max_num_frames: int | None, usual_steps: int) -> tuple[Change, ...]:
    """List what to change in a clip's settings, the cheapest and most telling first.

    Args:
        own: With the model's defaults filled in.
        max_num_frames: That the temporal layers know in one pass; None where there are no such layers.
        usual_steps: Denoising steps where nobody asks for a number.
    """
    found = [
        *_additions(own),
        *_inputs(own),
        *_travel(own),
        *_windows(own, max_num_frames),
        *_temporal_layers(own),
        *_guidance(own),
        *_precision(own),
        *_noise(own),
        *_steps(own, usual_steps),
        *_deflicker(own),
    ]
    return tuple(sorted(found, key=lambda change: change.cost))  # stable: the order above, where costs agree


def _without(own: GenerationSettings, name: str) -> dict[str, Any]:
    """The changes that take a setting away, and with it those that do nothing without it."""
    usual = GenerationSettings(prompt="-").model_dump(mode="json")
    values = own.model_dump(mode="json")
    idle = [
        other
        for other, setting in SETTINGS.items()
        if name in setting.needs and not any(values[needed] for needed in setting.needs if needed != name)
    ]
    return {each: usual[each] for each in (name, *idle) if values[each] != usual[each]}


def _inputs(own: GenerationSettings) -> Iterator[Change]:
    """Of a clip that starts from another or goes on from one: less of it, none of it."""
    if own.vae is not None:
        yield Change("decoder", "the model's own autoencoder", {"vae": None})
    if own.extend is not None:
        twice = 2 * own.extend_overlap
        if own.num_frames is not None and twice < own.num_frames:
            label = f"extend_overlap {twice}, twice as long"
            yield Change("window seams", label, {"extend_overlap": twice})
    for name in AN_INPUT:
        if getattr(own, name) is None:
            continue
        strength = own.strength or USUAL_STRENGTHS[name]
        half = round(strength / 2, 3)
        if half * (own.num_inference_steps or 1) >= 1 or own.enforce_steps:  # else no step is left to do
            yield Change("input", f"strength {half:g}, half of it", {"strength": half}, 0.5)
        if name == "refine":
            other = "latents" if own.refine_upscale == "frames" else "frames"
            yield Change("input", f"{other} made larger first", {"refine_upscale": other})
        yield Change("input", f"from noise, without {name}", _without(own, name), 1 / strength)


def _additions(own: GenerationSettings) -> Iterator[Change]:
    if own.loras:
        yield Change("LoRA", "LoRA off" if len(own.loras) == 1 else "LoRAs off", {"loras": []})
        if len(own.loras) > 1:
            for entry in own.loras:
                rest = [other for other in own.loras if other != entry]
                yield Change("LoRA", f"without {_last(entry)}", {"loras": rest})
    count = len(own.controlnet)
    if count:
        label = "ControlNet off" if count == 1 else "ControlNets off"
        yield Change("ControlNet", label, _without(own, "controlnet"), 0.7)
    lists = own.model_dump(mode="json", include=set(CONTROL_LISTS))
    for place in range(count if count > 1 else 0):
        others = {name: _but(values, place, count) for name, values in lists.items()}
        yield Change("ControlNet", f"without {_last(own.controlnet[place])}, number {place + 1}", others, 0.9)
    if own.sparsectrl is not None:
        yield Change("ControlNet", "SparseCtrl off", _without(own, "sparsectrl"), 0.7)
    if own.ip_adapter is not None:
        yield Change("IP-Adapter", "IP-Adapter off", {"ip_image": {}, **_without(own, "ip_adapter")})


def _last(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def _but(values: Any, place: int, count: int) -> Any:
    """A list without one of its entries, where it has one for each; one for all stays."""
    if not isinstance(values, list) or len(values) != count:
        return values
    return [value for at, value in enumerate(values) if at != place]


def _travel(own: GenerationSettings) -> Iterator[Change]:
    names = [name for name in type(own).model_fields if name.endswith("_travel") and getattr(own, name)]
    if own.prompt_travel or own.negative_prompt_travel:
        held = [name for name in names if name.startswith(("prompt", "negative"))]
        yield Change("prompt travel", "one prompt for all frames", {name: {} for name in held})
    if any(not name.startswith(("prompt", "negative")) for name in names):
        held = [name for name in names if not name.startswith(("prompt", "negative"))]
        yield Change("prompt travel", "numbers held over the frames", {name: {} for name in held})


def _windows(own: GenerationSettings, max_num_frames: int | None) -> Iterator[Change]:
    length, num_frames = own.context_length, own.num_frames or 0
    if not own.freenoise and (length is None or num_frames <= length):
        return
    if max_num_frames is not None and num_frames <= max_num_frames * own.position_stretch:
        yield Change("window seams", "one pass, no windows", OFF)
    if length is None or own.freenoise:
        return
    half = length // 2
    overlap = length // 4 if own.context_overlap is None else own.context_overlap
    schedule = own.context_schedule if own.speed else "uniform"
    if schedule == "batched":
        schedule = "static"
    if overlap < half or own.context_schedule != schedule:
        values = {"context_overlap": max(half, overlap), "context_schedule": schedule}
        yield Change("window seams", "windows that overlap by half", values, 1.6)


def _temporal_layers(own: GenerationSettings) -> Iterator[Change]:
    steady: dict[str, Any] = {
        "motion_effect_travel": {},
        "motion_effect_steps": {},
        "motion_effect_blocks": {},
    }
    changed = {name: value for name, value in steady.items() if getattr(own, name)}
    if own.motion_adapter == "none":
        yield Change("temporal layers", "temporal layers on", {"motion_adapter": None, **changed})
        return
    if own.motion_effect != 1 or changed:
        label = "temporal layers as trained"
        yield Change("temporal layers", label, {"motion_effect": 1.0, **changed})
    if own.motion_scale != 1:
        yield Change("temporal layers", "motion scale 1", {"motion_scale": 1.0})
    if not own.temporal_guidance:
        yield Change(
            "temporal layers", "temporal guidance 1", {"temporal_guidance": 1.0}, 1.5, is_remedy=True
        )
    for effect in EFFECTS:
        if effect != own.motion_effect:
            label = "temporal layers off" if effect == 0 else f"motion effect {effect:g}"
            yield Change("temporal layers", label, {"motion_effect": effect, **changed})


def _guidance(own: GenerationSettings) -> Iterator[Change]:
    scale = own.guidance_scale or 1.0
    if scale > 1:
        travels = ("guidance_scale_travel", "guidance_scale_steps")
        changed: dict[str, Any] = {name: {} for name in travels if getattr(own, name)}
        half = max(1.0, round(scale / 2, 3))
        yield Change("guidance", f"guidance {half:g}, half of it", {"guidance_scale": half, **changed})
        if scale > 10:  # half of far too much is still too much
            usual = {"guidance_scale": 5.0, **changed}
            yield Change("guidance", "guidance 5", usual)
        if own.guidance_interval is None and not own.speed:
            interval = {"guidance_interval": INTERVAL}
            yield Change("guidance", "guidance within 0.1-0.8 only", interval)


def _precision(own: GenerationSettings) -> Iterator[Change]:
    if own.speed:
        yield Change("speed and precision", "speed exact", {"speed": 0}, 1.5 + 0.5 * own.speed)
    if own.dtype not in {"float32", "float64"} or own.quantize is not None:
        exact = {"dtype": "float32", "quantize": None}
        yield Change("speed and precision", "float32", exact, 2.0)


def _noise(own: GenerationSettings) -> Iterator[Change]:
    if own.noise_video is not None:
        yield Change("noise", "noise that follows no video", {"noise_video": None, "noise_alpha": None})
        return
    for kind in ("independent", "mixed"):
        if (own.noise_type or "independent") != kind:
            yield Change("noise", f"{kind} noise", {"noise_type": kind, "noise_alpha": 1.0})


def _steps(own: GenerationSettings, usual_steps: int) -> Iterator[Change]:
    other = "ddim" if own.scheduler == "dpmpp_2m" else "dpmpp_2m"
    if own.scheduler != "lcm":  # a student's own scheduler is part of the model
        yield Change("steps and scheduler", f"scheduler {other}", {"scheduler": other})
    num_steps = own.num_inference_steps or 1
    twice = {"num_inference_steps": 2 * num_steps}
    yield Change("steps and scheduler", f"{2 * num_steps} steps, twice as many", twice, 2.0)
    if usual_steps > 2 * num_steps:
        usual = {"num_inference_steps": usual_steps}
        yield Change("steps and scheduler", f"{usual_steps} steps, as usual", usual, usual_steps / num_steps)


def _deflicker(own: GenerationSettings) -> Iterator[Change]:
    if own.deflicker:
        yield Change("denoiser", "deflicker off", {"deflicker": 0.0})
    if own.deflicker < 1:
        yield Change("denoiser", "deflicker 1", {"deflicker": 1.0}, is_remedy=True)
