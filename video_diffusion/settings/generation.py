"""Everything that decides what a clip looks like, as one frozen value; checked before any model is loaded.

Each setting is declared once, here: its type and range, what it means, its flags, what it does to a clip's
identity. Flags, `--help`, the JSON schema, `docs/settings.md`, job ids and the list of input files follow.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
)

from video_diffusion.settings.field_rules import (
    ContextFuse,
    ContextSchedule,
    ControlMakes,
    DtypeName,
    Fps,
    FrequencyFilter,
    Interval,
    Intervals,
    NoiseType,
    Paths,
    QuantizeName,
    RefineUpscale,
    Scales,
    SchedulerName,
    Setting,
    Size,
    check_device,
    check_name,
    parse_size,
)
from video_diffusion.settings.identity import VIDEOS, IdentifiedSettings, declarations, idle_values
from video_diffusion.settings.keyframes import (
    BlockFactors,
    FileKeyframes,
    GuidanceKeyframes,
    GuidanceSteps,
    ImageRanges,
    MotionKeyframes,
    MotionSteps,
    place_images,
)
from video_diffusion.settings.layers import ConfigError, Layer, shown, validate
from video_diffusion.settings.prompts import File, Name

if TYPE_CHECKING:
    from pydantic import ValidationInfo
else:
    ValidationInfo = Any  # a protocol that no runtime check can ask for


INPUTS = ("init_video", "init_image", "extend", "refine")
AN_INPUT = ("init_video", "init_image", "refine")
WINDOWS = ("context_length", "freenoise")


def stretched_positions(known: int, position_stretch: float) -> int:
    """Tell how many frames a table of so many positions makes in one pass."""
    return int((known - 1) * position_stretch + 1e-9) + 1


class GenerationSettings(IdentifiedSettings):
    """Frozen settings of one clip, as asked; None is the model's own default (`generation_defaults.json`).

    What each field means stands in its description; `docs/settings.md` lists them.
    """

    guidance_scale_travel: Annotated[
        GuidanceKeyframes,
        Field(
            description="The guidance scale from a frame on, in straight lines. `guidance_scale` holds at "
            "frame 0."
        ),
        Setting("--guidance-travel", "FRAME: X", each="frame"),
    ] = ()
    motion_scale_travel: Annotated[
        MotionKeyframes,
        Field(description="The motion scale from a frame on, in straight lines."),
        Setting("--motion-travel", "FRAME: X", each="frame"),
    ] = ()
    motion_effect: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            description="Weight of what the temporal layers add. 0 leaves images alone, 1 is as trained.",
        ),
        Setting("--motion-effect", "X"),
    ] = 1.0
    motion_effect_travel: Annotated[
        MotionKeyframes,
        Field(description="The motion effect from a frame on, in straight lines."),
        Setting("--effect-travel", "FRAME: X", each="frame"),
    ] = ()
    guidance_scale_steps: Annotated[
        GuidanceSteps,
        Field(
            description="The guidance scale from a step of the run on, in straight lines. `guidance_scale` "
            "holds at step 0, the noisiest. Not together with `guidance_scale_travel`."
        ),
        Setting("--guidance-steps", "STEP: X", each="step"),
    ] = ()
    motion_scale_steps: Annotated[
        MotionSteps,
        Field(description="The motion scale from a step on, likewise."),
        Setting("--motion-steps", "STEP: X", each="step"),
    ] = ()
    motion_effect_steps: Annotated[
        MotionSteps,
        Field(description="The motion effect from a step on, likewise."),
        Setting("--effect-steps", "STEP: X", each="step"),
    ] = ()
    motion_scale_blocks: Annotated[
        BlockFactors,
        Field(description="A factor on the motion scale in a block of the U-Net: down, mid, up, down.0, …"),
        Setting("--motion-blocks", "BLOCK: X", each="block"),
    ] = ()
    motion_effect_blocks: Annotated[
        BlockFactors,
        Field(description="A factor on the motion effect in a block of the U-Net, likewise."),
        Setting("--effect-blocks", "BLOCK: X", each="block"),
    ] = ()
    position_stretch: Annotated[
        float,
        Field(
            ge=0.1,
            le=10,
            description="Frames per trained position (positional-encoding interpolation). "
            "At 2 motion takes twice as long and the table serves nearly twice the frames.",
        ),
        Setting("--position-stretch", "X"),
    ] = 1.0
    seed: Annotated[
        int,
        Field(
            ge=0,
            le=2**63 - 1,
            description="The same seed gives the same clip. The noise of frame i depends on (seed, i) alone.",
        ),
        Setting("--seed", "N", in_id=True),
    ] = 0
    num_frames: Annotated[
        int | None,
        Field(ge=1, le=4096, description="Frames; 1 makes an image."),
        Setting("--frames --num-frames", "N", in_id=True),
    ] = None
    height: Annotated[Size, Field(description="Pixels, a multiple of 8."), Setting(in_id=True)] = None
    width: Annotated[Size, Field(description="Pixels, a multiple of 8."), Setting(in_id=True)] = None
    fps: Annotated[
        Fps,
        Field(description="Frames per second of the file, exact: 24, 23.976, 30000/1001."),
        Setting("--fps", "RATE", pixels=False),
    ] = None
    num_inference_steps: Annotated[
        int | None,
        Field(ge=1, le=1000, description="Denoising steps."),
        Setting("--steps --num-inference-steps", "N", in_id=True),
    ] = None
    guidance_scale: Annotated[
        float | None,
        Field(ge=0, le=50, description="How hard to follow the prompt. 1 switches guidance off."),
        Setting("--guidance-scale --guidance", "X", in_id=True),
    ] = None
    scheduler: Annotated[
        SchedulerName | None,
        Field(description="How noise is taken away from step to step."),
        Setting("--scheduler", "NAME", in_id=True),
    ] = None
    model: Annotated[
        str,
        AfterValidator(check_name),
        Field(description="'embedded', a folder, a file or a hub id."),
        Setting("--model", "MODEL", in_id=True),
    ] = "embedded"
    motion_adapter: Annotated[
        Name,
        Field(
            description="Other temporal layers: a folder, file, training run or hub id; none switches them "
            "off."
        ),
        Setting("--motion-adapter", "PATH", in_id=True),
    ] = None
    vae: Annotated[
        Name,
        Field(
            description="Another autoencoder: a folder, file or hub id. SVD's temporal decoder sees "
            "neighbouring frames, against flicker."
        ),
        Setting("--vae", "PATH", names="network"),
    ] = None
    text_encoder: Annotated[
        Name,
        Field(description="A model's folder or hub id to take text encoders and tokenizers from."),
        Setting("--text-encoder", "PATH", names="network"),
    ] = None
    dtype: Annotated[
        DtypeName,
        Field(description="Precision of the networks."),
        Setting("--dtype", "NAME", in_id=True),
    ] = "float32"
    device: Annotated[
        str,
        AfterValidator(check_device),
        Field(description="auto, cpu, cuda, cuda:N, xpu, mps."),
        Setting("--device", "NAME", pixels=False),
    ] = "auto"
    decode_chunk_size: Annotated[
        int | None,
        Field(ge=1, le=4096, description="Frames that the autoencoder decodes at once."),
        Setting(pixels=False),
    ] = None
    noise_type: Annotated[
        NoiseType | None,
        Field(
            description="How the noise of frames hangs together. None is what the motion adapter was trained "
            "with."
        ),
        Setting("--noise-type", "NAME", none_means="independent"),
    ] = None
    noise_alpha: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            description="What frames share of mixed or progressive noise, or take over of warped "
            "noise. None is the motion adapter's.",
        ),
        Setting("--noise-alpha", "X", none_means=1.0),
    ] = None
    noise_video: Annotated[
        File,
        Field(description="A video whose motion the noise follows (warped noise)."),
        Setting("--noise-video", "FILE", names="input"),
    ] = None
    motion_scale: Annotated[
        float,
        Field(
            ge=0, le=10, description="Factor on the scores of temporal attention. 1 is the model as trained."
        ),
        Setting("--motion-scale", "X"),
    ] = 1.0
    context_length: Annotated[
        int | None,
        Field(
            ge=2,
            le=4096,
            description="Frames of a context window, for clips of any length. None makes the clip "
            "in one pass, or in windows of the model's own length where it knows fewer frames.",
        ),
        Setting("--context-length", "N"),
    ] = None
    context_overlap: Annotated[
        int | None,
        Field(
            ge=0,
            le=4095,
            description="Frames that neighbouring windows share. None is a quarter of their length.",
        ),
        Setting("--context-overlap", "N", needs=WINDOWS),
    ] = None
    context_stride: Annotated[
        int,
        Field(ge=1, le=8, description="Levels of dilated windows. 1 has none."),
        Setting("--context-stride", "N", needs=WINDOWS),
    ] = 1
    context_schedule: Annotated[
        ContextSchedule,
        Field(description="Where windows lie from step to step."),
        Setting("--context-schedule", "NAME"),
    ] = "uniform"
    context_fuse: Annotated[
        ContextFuse,
        Field(description="How frames count where windows overlap."),
        Setting("--context-fuse", "NAME", needs=WINDOWS),
    ] = "pyramid"
    loop: Annotated[
        bool,
        Field(description="Let the clip's end meet its beginning."),
        Setting("--loop"),
    ] = False
    freenoise: Annotated[
        bool,
        Field(description="Long clips in one pass: repeated noise, attention in windows (FreeNoise)."),
        Setting("--freenoise"),
    ] = False
    freeinit: Annotated[
        int,
        Field(ge=0, le=10, description="Denoise so many times with FreeInit; 0 and 1 are plain sampling."),
        Setting("--freeinit", "N"),
    ] = 0
    freeinit_filter: Annotated[
        FrequencyFilter,
        Field(description="What FreeInit keeps of the last result."),
        Setting("--freeinit-filter", "NAME", needs=("freeinit",)),
    ] = "butterworth"
    freeinit_spatial_cutoff: Annotated[
        float,
        Field(ge=0, le=1, description="Up to which spatial frequency FreeInit keeps it."),
        Setting(needs=("freeinit",)),
    ] = 0.25
    freeinit_temporal_cutoff: Annotated[
        float,
        Field(ge=0, le=1, description="Up to which temporal frequency FreeInit keeps it."),
        Setting(needs=("freeinit",)),
    ] = 0.25
    init_video: Annotated[
        File,
        Field(description="Start from a video or a folder of images."),
        Setting("--init-video", "FILE", names="input"),
    ] = None
    init_image: Annotated[
        File,
        Field(description="Begin with an image."),
        Setting("--init-image", "FILE", names="input"),
    ] = None
    extend: Annotated[
        File,
        Field(
            description="A clip to go on from: its last frames are held, and what is made follows it in one "
            "file, at its size and rate."
        ),
        Setting("--extend", "CLIP", names="input"),
    ] = None
    extend_overlap: Annotated[
        int,
        Field(ge=1, le=256, description="Frames that are held of it, the first of `num_frames`."),
        Setting("--extend-overlap", "N", needs=("extend",)),
    ] = 4
    refine: Annotated[
        File,
        Field(
            description="A clip to make larger in a second pass. Open settings are its frames and rate, and "
            "twice its size."
        ),
        Setting("--refine", "CLIP", names="input"),
    ] = None
    refine_upscale: Annotated[
        RefineUpscale,
        Field(description="What is made larger first: its frames, or the latents that they are encoded to."),
        Setting("--refine-upscale", "NAME", needs=("refine",)),
    ] = "frames"
    video_start: Annotated[
        float,
        Field(ge=0, le=14_400, description="Seconds into its videos at which a clip's frames begin."),
        Setting("--video-start", "SECONDS", needs=VIDEOS),
    ] = 0.0
    video_stride: Annotated[
        int | None,
        Field(ge=1, le=1000, description="Take every n-th frame of its videos. None: at the clip's rate."),
        Setting("--video-stride", "N", needs=VIDEOS),
    ] = None
    strength: Annotated[
        float | None,
        Field(
            ge=0.001,
            le=1,
            description="How much of the input is made anew. 1 leaves next to nothing of it; "
            "None is 0.6 for a video, 0.75 for an image and 0.4 for a second pass.",
        ),
        Setting("--strength", "X", needs=AN_INPUT),
    ] = None
    enforce_steps: Annotated[
        bool,
        Field(description="Do all steps at any strength, not that share of them."),
        Setting("--enforce-steps", needs=AN_INPUT),
    ] = False
    image_hold: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="How much later frames are held to the image. Frame i by its i-th power; "
            "None is 0.8. With a PIA adapter how alike frames are; None is its list for small motion.",
        ),
        Setting("--image-hold", "X", needs=("init_image", "extend")),
    ] = None
    speed: Annotated[
        int,
        BeforeValidator(lambda level: 0 if level == "exact" else level),
        Field(
            ge=0,
            le=3,
            description="exact (0), or 1 to 3: ever more steps reuse cached features (DeepCache). "
            "docs/benchmarks.md tells how far clips drift.",
        ),
        Setting("--speed", "LEVEL"),
    ] = 0
    compile: Annotated[
        bool,
        Field(description="Compile repeated parts first: a minute, once; for GPUs."),
        Setting("--compile", pixels=False),
    ] = False
    guidance_interval: Annotated[
        Interval,
        Field(
            description="Guide between these noise levels only, e.g. 0.1-0.9. 0 is no noise, 1 noise alone; "
            "outside, a step costs half."
        ),
        Setting("--guidance-interval", "LOW-HIGH"),
    ] = None
    temporal_guidance: Annotated[
        float,
        Field(ge=0, le=10, description="How far from an answer without temporal layers. 0 is off, 1 usual."),
        Setting("--temporal-guidance", "X"),
    ] = 0.0
    ip_adapter: Annotated[
        Name,
        Field(description="An IP-Adapter: a file, folder or file on the hub, its image encoder beside it."),
        Setting("--ip-adapter", "PATH", names="network"),
    ] = None
    ip_image: Annotated[
        ImageRanges,
        Field(description="An image for the IP-Adapter, for all frames or some such as 0-7; repeatable."),
        Setting("--ip-image", "[FRAMES: ]FILE", each="range", names="frame inputs"),
    ] = ()
    ip_scale: Annotated[
        float,
        Field(ge=0, le=2, description="Weight of the images it shows. 1 is as trained."),
        Setting("--ip-scale", "X", needs=("ip_adapter",)),
    ] = 0.7
    controlnet: Annotated[
        Paths,
        Field(description="A ControlNet, which steers every frame; repeatable, each with what follows."),
        Setting("--controlnet", "PATH", each="item", names="network"),
    ] = ()
    control_video: Annotated[
        Paths,
        Field(validate_default=True, description="Its edges, depth or poses: a video or image folder."),
        Setting("--control-video", "FILE", each="item", names="input", needs=("controlnet",)),
    ] = ()
    control_make: Annotated[
        ControlMakes,
        Field(
            description="What is drawn of the video first: canny edges, soft lines, or none; one for each "
            "ControlNet, or for all."
        ),
        Setting("--control-make", "NAME", each="item", needs=("controlnet",)),
    ] = ()
    controlnet_scale: Annotated[
        Scales,
        Field(description="How strongly it steers, 0 to 10. 1 is as trained; one for each, or for all."),
        Setting("--controlnet-scale", "X", each="item", needs=("controlnet",)),
    ] = (1.0,)
    controlnet_steps: Annotated[
        Intervals,
        Field(description="Share of the steps it works in, e.g. 0-0.6; one for each ControlNet, or for all."),
        Setting("--controlnet-steps", "START-END", each="item", needs=("controlnet",)),
    ] = ()
    sparsectrl: Annotated[
        Name,
        Field(description="A SparseCtrl encoder, which steers some frames."),
        Setting("--sparsectrl", "PATH", names="network"),
    ] = None
    sparse_images: Annotated[
        FileKeyframes,
        Field(
            validate_default=True, description="A frame's image for SparseCtrl, at the nearest whole frame."
        ),
        Setting("--sparse-image", "FRAME: FILE", each="frame", names="frame inputs", needs=("sparsectrl",)),
    ] = ()
    sparsectrl_scale: Annotated[
        float,
        Field(ge=0, le=10, description="How strongly it steers. 1 is as trained."),
        Setting("--sparsectrl-scale", "X", needs=("sparsectrl",)),
    ] = 1.0
    quantize: Annotated[
        QuantizeName | None,
        Field(description="int8 stores linear maps in 8 bits; needs torchao."),
        Setting("--quantize", "NAME"),
    ] = None  # fmt: skip

    @field_validator("guidance_scale_steps", "motion_scale_steps", "motion_effect_steps")
    @classmethod
    def _check_one_axis(cls, steps: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        travel = str(info.field_name).replace("_steps", "_travel")
        if steps and info.data.get(travel):
            raise ValueError(f"does not go with {travel}; keep one of them")
        return steps

    @field_validator("quantize")
    @classmethod
    def _check_nothing_added(cls, quantize: str | None, info: ValidationInfo) -> str | None:
        for name in ("loras", "ip_adapter"):
            if quantize is not None and info.data.get(name):
                raise ValueError(f"does not go with {name}; keep one of them")
        return quantize

    @field_validator(*INPUTS[1:])
    @classmethod
    def _check_one_input(cls, path: str | None, info: ValidationInfo) -> str | None:
        other = next((name for name in INPUTS if info.data.get(name) is not None), None)
        if path is not None and other is not None:
            raise ValueError(f"does not go with {other}; keep one of them")
        return path

    @field_validator("control_video", "sparse_images")
    @classmethod
    def _check_control(cls, given: Any, info: ValidationInfo) -> Any:
        network = "controlnet" if info.field_name == "control_video" else "sparsectrl"
        if not given and info.data.get(network):
            raise ValueError(f"is missing, but {network} is set; name what it reads, or drop both")
        return given

    @field_validator("control_video", "control_make", "controlnet_scale", "controlnet_steps")
    @classmethod
    def _check_count(cls, given: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        num_networks = len(info.data.get("controlnet", ()))
        for_all = 0 if info.field_name == "control_video" else 1
        if num_networks and len(given) not in {num_networks, for_all, 0}:
            rule = "give one for each, in their order" + (", or one for all" if for_all else "")
            raise ValueError(
                f"names {len(given)} for {num_networks} ControlNet{'s' if num_networks > 1 else ''}; {rule}"
            )
        return given

    @field_validator("context_overlap")
    @classmethod
    def _check_overlap(cls, overlap: int | None, info: ValidationInfo) -> int | None:
        length = info.data.get("context_length")
        if overlap is not None and length is not None and overlap >= length:
            raise ValueError(f"must be below context_length {length}; a quarter of it is usual")
        return overlap

    @field_validator("loop")
    @classmethod
    def _check_loop(cls, loop: bool, info: ValidationInfo) -> bool:
        schedule = info.data.get("context_schedule")
        if loop and schedule in {"static", "even", "batched"}:
            raise ValueError(f"does not go with context_schedule {schedule}; leave the schedule out")
        return loop

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "GenerationSettings":
        """Check keyword values.

        Args:
            values: By field name, or by the name of the flag: `steps`, `frames`, `lora`, `size`.

        Raises:
            ValueError: One line with the setting, its rule and the value given.

        >>> GenerationSettings.from_values({"prompt": "a red circle", "steps": 8, "size": "64x48"})
        GenerationSettings(prompt='a red circle', height=48, width=64, num_inference_steps=8)
        """
        return validate(cls, Layer(by_field_name(values)))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What is not left at its default, the prompt first."""
        yield "prompt", self.prompt
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "prompt" and value != field.default:
                yield name, value

    def check_image_prompt(self) -> None:
        """Refuse images without an IP-Adapter, one without images, and frames that the clip does not have.

        Raises:
            ValueError: One of these; frames are checked if their number is known.
        """
        if self.ip_image and self.ip_adapter is None:
            raise ValueError("ip_image needs an IP-Adapter that reads it; set ip_adapter to its file")
        if self.ip_adapter is not None and not self.ip_image:
            raise ValueError("ip_adapter needs a picture to show; set ip_image to one")
        if self.num_frames is not None:
            place_images("ip_image", self.ip_image, self.num_frames)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "GenerationSettings":
        """Fill every None from a model's defaults; a clip too long for one pass gets context windows.

        Args:
            defaults: Checked, see `model_defaults`; names that are no settings are ignored.
        """
        if (self.num_frames or defaults.get("num_frames")) == 1:
            defaults = {**defaults, **defaults.get("one_frame", {})}
        left_open = [name for name in type(self).model_fields if getattr(self, name) is None]
        filled = {name: defaults[name] for name in left_open if name in defaults}
        if self.context_length is None and not self.freenoise and "max_num_frames" in defaults:
            num_frames = filled.get("num_frames", self.num_frames)
            at_once = stretched_positions(defaults["max_num_frames"], self.position_stretch)
            if num_frames is not None and num_frames > at_once >= 2:
                filled["context_length"] = min(defaults.get("num_frames", at_once), at_once)
        return self.model_copy(update=filled)


SETTINGS = declarations(GenerationSettings)
"""The declaration of every field."""

PIXEL_FIELDS = tuple(name for name, setting in SETTINGS.items() if setting.pixels)
"""What a clip's pixels depend on."""


def without_effect() -> Mapping[str, Any]:
    """Values at which pixel fields change nothing; see `idle_values`."""
    return idle_values(GenerationSettings)


@cache
def flag_names() -> Mapping[str, str]:
    """Fields by the names of their flags, where these are others: "steps" is num_inference_steps."""
    names = {
        flag.removeprefix("--").replace("-", "_"): name
        for name, setting in SETTINGS.items()
        for flag in setting.flags.split()
    }
    return {flag: name for flag, name in names.items() if flag not in SETTINGS}


def by_field_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of the fields, from these and from the names of flags.

    Raises:
        ConfigError: A setting is given under two names, or the size is none.
    """
    found: dict[str, Any] = {}
    for given, value in values.items():
        named_here = {flag_names().get(given, given): value}
        if given == "size":
            try:
                width, height = value if isinstance(value, tuple) else parse_size(value)
            except ValueError as error:
                raise ConfigError(f"size {error} (given {shown(value)})") from None
            named_here = {"width": width, "height": height}
        twice = named_here.keys() & found.keys()
        if twice:
            raise ConfigError(f"{given} gives {min(twice)} a second time; keep one of them")
        found |= named_here
    return found


def named(
    kind: Literal["input", "frame inputs", "network", "loras", "embeddings"],
) -> tuple[str, ...]:
    """The settings that name files or networks of one kind."""
    return tuple(name for name, setting in SETTINGS.items() if setting.names == kind)
