"""What a model will do: settings with nothing left open, the defaults that fill them, notes on both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from video_diffusion.settings.field_rules import ControlMake, NoiseType, SchedulerName
from video_diffusion.settings.generation import AN_INPUT, SETTINGS, GenerationSettings
from video_diffusion.settings.keyframes import along_frames, place_keyframes, whole_frames
from video_diffusion.settings.layers import Layer, validate

CHANGING_NUMBERS = ("guidance_scale", "motion_scale", "motion_effect")
"""Settings whose value may change along the frames or over the steps."""
USUAL_NUM_FRAMES = 16
USUAL_POSITIONS = 32  # of temporal layers that were not trained
USUAL_SIDE = 64  # latents, where the U-Net's configuration names no size
USUAL_VIDEO_STRENGTH = 0.6
USUAL_IMAGE_STRENGTH = 0.75
USUAL_REFINE_STRENGTH = 0.4
# What neither the user nor a model's folder says; the size is the U-Net's own.
COMMON_DEFAULTS: dict[str, Any] = {
    "fps": 8, "num_inference_steps": 25, "guidance_scale": 7.5, "scheduler": "ddim",
}  # fmt: skip


@dataclass(frozen=True)
class ControlSettings:
    """One ControlNet's place, the video that it reads, what is drawn of that first, its scale and steps."""

    network: str
    video: str
    make: ControlMake
    scale: float
    steps: tuple[float, float] | None


class ResolvedSettings(GenerationSettings):
    """Settings of one clip with every default filled in and checked against its model; `plan` makes them.

    What is still None is not used: no context window, no init video.
    """

    if TYPE_CHECKING:  # the same fields, these never None
        num_frames: int
        height: int
        width: int
        fps: Fraction
        num_inference_steps: int
        guidance_scale: float
        scheduler: SchedulerName
        decode_chunk_size: int
        noise_type: NoiseType
        noise_alpha: float

    def recorded(self) -> GenerationSettings:
        """The same values as they are asked for again from a record."""
        return GenerationSettings.model_construct(self.model_fields_set, **dict(self))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def made_together(self) -> str:
        """What clips must agree on to be made together: all but prompts and seeds, and the prompts' LoRAs."""
        shared = self.model_dump_json(exclude={"prompt", "negative_prompt", "seed"})
        return f"{shared} {self.all_loras}"

    @property
    def input_strength(self) -> float:
        """How much of the way from noise is gone where the clip starts from an input."""
        if self.strength is not None:
            return self.strength
        if self.refine is not None:
            return USUAL_REFINE_STRENGTH
        return USUAL_IMAGE_STRENGTH if self.init_video is None else USUAL_VIDEO_STRENGTH

    @property
    def run(self) -> tuple[int, float, bool]:
        """Steps, strength and whether these steps are enforced, as `start_run` takes them."""
        if not any(getattr(self, name) is not None for name in AN_INPUT):
            return self.num_inference_steps, 1.0, False
        return self.num_inference_steps, self.input_strength, self.enforce_steps

    def keyframes(self, name: str) -> list[tuple[float, Any]]:
        """The values of a setting that may travel, in order of their frames.

        Raises:
            ValueError: A frame outside the clip, or two values for one frame.
        """
        travel = getattr(self, f"{name}_travel")
        return place_keyframes(f"{name}_travel", travel, self.num_frames, getattr(self, name))

    def prompt_keyframes(self, negative: bool = False) -> list[tuple[float, str]]:
        """The prompts of the clip, with head and tail, or its negative prompts, and where each holds."""
        if negative:
            return self.keyframes("negative_prompt")
        head, tail = self.prompt_head, self.prompt_tail
        return [
            (frame, " ".join(filter(None, (head, text, tail)))) for frame, text in self.keyframes("prompt")
        ]

    def along_frames(self, name: str) -> float | list[float]:
        """One of `CHANGING_NUMBERS`: one number, or one for each frame if it travels."""
        keyframes = self.keyframes(name)
        if len(keyframes) == 1:
            return float(keyframes[0][1])
        return along_frames(keyframes, self.num_frames, self.loop)

    def along_steps(self, name: str, num_steps: int) -> list[float] | None:
        """One of `CHANGING_NUMBERS` for each of the steps that are done; None if it does not change.

        Raises:
            ValueError: A step outside the run, or two numbers for one step.
        """
        steps = getattr(self, f"{name}_steps")
        if not steps:
            return None
        keyframes = place_keyframes(f"{name}_steps", steps, num_steps, getattr(self, name), "step")
        return along_frames(keyframes, num_steps)

    @property
    def controls(self) -> tuple["ControlSettings", ...]:
        """What steers every frame, in order; a value given once holds for all."""

        def spread(values: tuple[Any, ...], usual: Any) -> tuple[Any, ...]:
            values = values or (usual,)
            return values * len(self.controlnet) if len(values) == 1 else values

        each = zip(
            self.controlnet,
            self.control_video,
            spread(self.control_make, "none"),
            spread(self.controlnet_scale, 1.0),
            spread(self.controlnet_steps, None),
            strict=True,
        )
        return tuple(ControlSettings(*values) for values in each)

    def sparse_frames(self) -> dict[int, str]:
        """The images for a SparseCtrl encoder by frame.

        Raises:
            ValueError: A frame outside the clip, or two images for one frame.
        """
        return whole_frames("sparse_images", self.sparse_images, self.num_frames)


def model_defaults(
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    motion_adapter: Mapping[str, Any],
    own: Mapping[str, Any],
    where: str,
    image_own: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """What settings are where they are left open: what is usual, the networks' sizes, the model's own.

    `max_num_frames`, which is no setting, is how many frames the temporal layers know. `one_frame` holds what
    differs for a single picture, in which distilled temporal layers take no part, nor their schedule.

    Args:
        unet: Configuration of the image U-Net; empty if it is not known before the model is loaded.
        vae: Of the autoencoder, likewise.
        motion_adapter: Of the temporal layers.
        own: The model's `generation_defaults.json`, or what is usual for published temporal layers.
        where: Names the model in messages.
        image_own: The model's own without temporal layers.

    Raises:
        ConfigError: A value of its own that no clip can have.
    """
    longest = motion_adapter.get("motion_max_seq_length", USUAL_POSITIONS)
    found = COMMON_DEFAULTS | {"max_num_frames": longest}
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if unet and levels:
        side = unet.get("sample_size") or USUAL_SIDE
        height, width = (side, side) if isinstance(side, int) else side
        scale = 2 ** (len(levels) - 1)
        found |= {
            "num_frames": min(USUAL_NUM_FRAMES, longest),
            "height": height * scale,
            "width": width * scale,
        }
    found |= {name: motion_adapter[name] for name in ("noise_type", "noise_alpha") if name in motion_adapter}
    checked = _checked({**found, **own}, where)
    distilled = motion_adapter.get("distilled")
    if isinstance(distilled, Mapping):
        alone = _checked({**found, **(own if image_own is None else image_own)}, where)
        checked["one_frame"] = {name: alone[name] for name in distilled if name in alone}
    return checked


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {name: value for name, value in values.items() if name in GenerationSettings.model_fields}
    checked = validate(
        GenerationSettings, Layer({"prompt": "-", **known}, {(name,): where for name in (*known, "prompt")})
    )
    return {**values, **{name: getattr(checked, name) for name in known}}


def windows_note(asked: GenerationSettings, filled: GenerationSettings) -> str | None:
    """Say that a clip gets context windows that nobody asked for; None if it does not."""
    length = filled.context_length
    if length is None or asked.context_length is not None:
        return None
    return (
        f"num_frames {filled.num_frames} is more than this model makes in one pass, so it is made in windows "
        f"of {length} frames (context_length)"
    )


def ignored_settings(settings: GenerationSettings) -> Iterator[str]:
    """Say of each setting that is asked for and changes nothing what it needs."""
    for name, setting in SETTINGS.items():
        is_default = getattr(settings, name) == GenerationSettings.model_fields[name].default
        if (
            setting.needs
            and not is_default
            and not any(getattr(settings, needed) for needed in setting.needs)
        ):
            yield f"{name} is ignored without {' or '.join(setting.needs)}; set that too, or leave it out"
    if settings.freenoise and (settings.loop or settings.context_schedule != "uniform"):
        yield "loop and context_schedule are ignored by freenoise, whose windows never move"
    # uniform_looped turns a clip of one window, too
    one_window = settings.context_length is None and not settings.freenoise
    if one_window and settings.context_schedule not in {"uniform", "uniform_looped"}:
        yield "context_schedule is ignored without context_length; set that too, or leave it out"
