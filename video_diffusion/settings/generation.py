"""Everything that decides what a clip looks like, as one frozen value; checked before any model is loaded."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from video_diffusion.settings.field_rules import (
    ContextFuse,
    ContextSchedule,
    DtypeName,
    Fps,
    FrequencyFilter,
    Interval,
    NoiseType,
    PromptBlend,
    QuantizeName,
    SchedulerName,
    Size,
    check_device,
    check_name,
    check_path,
    check_prompt,
    check_text,
)
from video_diffusion.settings.input_files import (
    check_loras,
    content_in_place_of_paths,
    input_files,
    input_sha256s,
    lora_identity,
)
from video_diffusion.settings.keyframes import (
    BlockFactors,
    FileKeyframes,
    GuidanceKeyframes,
    GuidanceSteps,
    ImageRanges,
    MotionKeyframes,
    MotionSteps,
    TextKeyframes,
    earliest,
)
from video_diffusion.settings.layers import Layer, validate

# They change timing, rounding or memory only, not what the pixels are meant to be.
NO_PIXEL_FIELDS = ("fps", "device", "decode_chunk_size", "compile")

# What an id has always held; every later setting counts only where it changes something, so that ids stay.
FIRST_FIELDS = (
    "prompt", "negative_prompt", "seed", "num_frames", "height", "width", "num_inference_steps",
    "guidance_scale", "scheduler", "model", "motion_adapter", "dtype",
)  # fmt: skip

# Where None, the field's default, means what may also be said; all other fields change nothing as they are.
SAID_DEFAULTS: Mapping[str, Any] = {"noise_type": "independent", "noise_alpha": 1.0}


def without_effect(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Values at which settings change no pixel: the defaults of all that came after the first."""
    later = {**defaults, **SAID_DEFAULTS}
    return {name: later[name] for name in defaults if name not in (*FIRST_FIELDS, *NO_PIXEL_FIELDS)}


def counted(values: Mapping[str, Any], effectless: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a clip's settings that decide its pixels.

    Args:
        values: of every setting, as plain JSON values.
        effectless: see `without_effect`; None changes nothing either.
    """
    return {
        name: value
        for name, value in values.items()
        if name not in NO_PIXEL_FIELDS and not (name in effectless and value in (None, effectless[name]))
    }


def canonical(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# Settings that change along a clip, over the steps of its run or from block to block of the U-Net.


class TravelSettings(BaseModel):
    """A part of `GenerationSettings`.

    Attributes:
        prompt_travel: frame to prompt, blended between; `prompt` holds at frame 0 unless this says otherwise,
            and may be left out. Frames as in `TextKeyframes`.
        negative_prompt_travel: likewise, with `negative_prompt`.
        prompt_head: what every prompt begins with; a space goes between.
        prompt_tail: what every prompt ends with.
        prompt_blend: how embeddings go from one prompt to the next, in a straight line or on an arc.
        guidance_scale_travel: frame to guidance scale, in straight lines; `guidance_scale` holds at frame 0.
        motion_scale_travel: frame to motion scale, likewise.
        motion_effect: factor on what temporal layers add, 0 (pictures alone) to 10; 1 is as trained.
        motion_effect_travel: frame to motion effect, likewise.
        guidance_scale_steps: step of the run to guidance scale, in straight lines; `guidance_scale` holds at
            step 0, the noisiest. Not together with `guidance_scale_travel`.
        motion_scale_steps: step to motion scale, likewise.
        motion_effect_steps: step to motion effect, likewise.
        motion_scale_blocks: block of the U-Net to a factor on the motion scale of its temporal layers.
        motion_effect_blocks: likewise, on the motion effect.
        position_stretch: how far apart the rows of the position table are, in frames, 0.1 to 10: at 2 motion
            takes twice as long and the table serves nearly twice the frames; 1 is as trained.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    prompt_travel: TextKeyframes = ()
    negative_prompt_travel: TextKeyframes = ()
    prompt_head: Annotated[str, AfterValidator(check_text)] = ""
    prompt_tail: Annotated[str, AfterValidator(check_text)] = ""
    prompt_blend: PromptBlend = "lerp"
    guidance_scale_travel: GuidanceKeyframes = ()
    motion_scale_travel: MotionKeyframes = ()
    motion_effect: Annotated[float, Field(ge=0, le=10)] = 1.0
    motion_effect_travel: MotionKeyframes = ()
    guidance_scale_steps: GuidanceSteps = ()
    motion_scale_steps: MotionSteps = ()
    motion_effect_steps: MotionSteps = ()
    motion_scale_blocks: BlockFactors = ()
    motion_effect_blocks: BlockFactors = ()
    position_stretch: Annotated[float, Field(ge=0.1, le=10)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _prompt_of_travel(cls, values: Any) -> Any:
        """A clip whose prompts are all given by frame begins with the first of them."""
        if not isinstance(values, Mapping) or "prompt" in values:
            return values
        first = earliest(values.get("prompt_travel"))
        return values if first is None else {**values, "prompt": first}

    @field_validator("guidance_scale_steps", "motion_scale_steps", "motion_effect_steps")
    @classmethod
    def _check_one_axis(cls, steps: Any, info: Any) -> Any:
        travel = info.field_name.replace("_steps", "_travel")
        if steps and info.data.get(travel):
            raise ValueError(f"does not go with {travel}; keep one of them")
        return steps


# Everything that decides what a clip looks like, as one frozen value; checked before any model is loaded.


# What neither the user nor a model's folder says; the size is the U-Net's own.
COMMON_DEFAULTS: Mapping[str, Any] = {
    "fps": 8, "num_inference_steps": 25, "guidance_scale": 7.5, "scheduler": "ddim",
}  # fmt: skip


def _speed_level(value: object) -> object:
    return 0 if value == "exact" else value


class GenerationSettings(TravelSettings):
    """Frozen settings of one clip. None means the model's own default (`generation_defaults.json`).

    What changes along a clip or over the steps of its run stands in `TravelSettings`.

    Attributes:
        prompt: what the clip shows; never empty, stored verbatim.
        negative_prompt: what guidance pushes away from; may be empty.
        seed: 0 to 2^63 - 1. Frame i's noise depends on (seed, i) alone.
        num_frames: 1 (a picture) to 4096.
        height: pixels, a multiple of 8.
        width: pixels, a multiple of 8.
        fps: frames per second of the file, exact; it does not change the pixels.
        num_inference_steps: denoising steps, 1 to 1000.
        guidance_scale: 0 to 50; 1 switches guidance off.
        scheduler: a name of `sampling.SCHEDULERS`.
        model: "embedded", a folder or a hub id.
        motion_adapter: a folder or hub id; None is the model's own, "none" switches temporal layers off.
        dtype: precision of the networks; noise is always drawn in float32.
        quantize: None, or "int8" for the linear maps of the U-Net and the temporal layers; needs torchao.
        device: "auto" takes a GPU if there is one.
        decode_chunk_size: frames decoded at once, 1 to 4096; a matter of memory. None takes fewer of large
            frames, so that decoding takes less memory than denoising.
        noise_type: how the frames' first noise hangs together, see `sampling.initial_noise`; None is what
            the motion adapter was trained with.
        noise_alpha: how closely for "mixed" and "progressive", 0 (not at all) to 100; None is the motion
            adapter's.
        noise_video: a video file or folder of images; the frames' noise moves as it does, `noise_alpha` says
            how closely. Goes with independent noise.
        motion_scale: factor on the scores of temporal attention, 0 to 10; 1 is the model as trained.
        context_length: frames of a context window, 2 to 4096; None makes the clip in one pass.
        context_overlap: frames that neighbouring windows share; None is a quarter of their length.
        context_stride: levels of dilated windows, 1 to 8; 1 has none.
        context_schedule: where windows lie from step to step, see `sampling.ContextWindows`.
        context_fuse: how frames count where windows overlap.
        loop: whether the clip's end meets its beginning; windows then go around it.
        freenoise: long clips in one pass: noise that repeats, temporal attention in context windows.
        freeinit: how often the clip is denoised with FreeInit, 2 to 10; 0 and 1 are plain sampling.
        freeinit_filter: what is kept of the last result, see `sampling.low_pass_filter`.
        freeinit_spatial_cutoff: 0 to 1.
        freeinit_temporal_cutoff: 0 to 1.
        init_video: a video file or folder of images to start from; its first frames are taken.
        init_image: a picture that the clip begins with.
        strength: how much is made anew, above 0 to 1, which leaves next to nothing of the input; None is 0.6
            for a video and 0.75 for a picture.
        enforce_steps: whether all `num_inference_steps` are done at any strength, not that share of them.
        image_hold: how much later frames are held to the picture: 0 (free) to 1 (all alike), frame i by its
            i-th power; None is 0.8. With a PIA adapter how alike they are; None is its list for small motion.
        loras: "PATH" or "PATH:WEIGHT" of each LoRA, on temporal layers or on the image model.
        speed: 0 ("exact"), or 1 to 3: ever more steps run the outermost layer alone; docs/benchmarks.md
            tells how far clips drift.
        compile: whether PyTorch compiles the repeated parts of the network first, which takes a minute once
            and can pay on a GPU; frames differ by rounding. Off where there is no compiler.
        guidance_interval: noise levels within which guidance is at work, as shares of the trained timesteps:
            0 is no noise, 1 noise alone; None is all of them. Outside, a step costs half.
        ip_adapter: a file, a folder with one, or a file on the hub, such as
            "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"; its image encoder lies beside it.
        ip_image: pictures that the IP-Adapter shows the image model, by frames as in `ImageRanges`; a path
            alone holds for the whole clip.
        ip_scale: weight of what the pictures add, 0 (nothing) to 2; 1 is as trained.
        controlnet: a folder or hub id of a ControlNet, which steers every frame.
        control_video: what it reads: a video or a folder of images of edges, depth or poses, one per frame.
        controlnet_scale: weight of what it adds, 0 (nothing) to 10; 1 is as trained.
        controlnet_steps: shares of the steps between which it is at work; None is all of them.
        sparsectrl: a folder, file or hub id of a SparseCtrl encoder, which steers some frames.
        sparse_images: frame to picture for it, frames as in `TextKeyframes`, at the nearest whole one.
        sparsectrl_scale: weight of what it adds, 0 (nothing) to 10; 1 is as trained.
    """

    prompt: Annotated[str, AfterValidator(check_prompt)]
    negative_prompt: Annotated[str, AfterValidator(check_text)] = ""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    num_frames: Annotated[int | None, Field(ge=1, le=4096)] = None
    height: Size = None
    width: Size = None
    fps: Fps = None
    num_inference_steps: Annotated[int | None, Field(ge=1, le=1000)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=50)] = None
    scheduler: SchedulerName | None = None
    model: Annotated[str, AfterValidator(check_name)] = "embedded"
    motion_adapter: Annotated[str | None, AfterValidator(check_name)] = None
    dtype: DtypeName = "float32"
    device: Annotated[str, AfterValidator(check_device)] = "auto"
    decode_chunk_size: Annotated[int | None, Field(ge=1, le=4096)] = None
    noise_type: NoiseType | None = None
    noise_alpha: Annotated[float | None, Field(ge=0, le=100)] = None
    noise_video: Annotated[str | None, AfterValidator(check_path)] = None
    motion_scale: Annotated[float, Field(ge=0, le=10)] = 1.0
    context_length: Annotated[int | None, Field(ge=2, le=4096)] = None
    context_overlap: Annotated[int | None, Field(ge=0, le=4095)] = None
    context_stride: Annotated[int, Field(ge=1, le=8)] = 1
    context_schedule: ContextSchedule = "uniform"
    context_fuse: ContextFuse = "pyramid"
    loop: bool = False
    freenoise: bool = False
    freeinit: Annotated[int, Field(ge=0, le=10)] = 0
    freeinit_filter: FrequencyFilter = "butterworth"
    freeinit_spatial_cutoff: Annotated[float, Field(ge=0, le=1)] = 0.25
    freeinit_temporal_cutoff: Annotated[float, Field(ge=0, le=1)] = 0.25
    init_video: Annotated[str | None, AfterValidator(check_path)] = None
    init_image: Annotated[str | None, AfterValidator(check_path)] = None
    strength: Annotated[float | None, Field(ge=0.001, le=1)] = None
    enforce_steps: bool = False
    image_hold: Annotated[float | None, Field(ge=0, le=1)] = None
    loras: Annotated[tuple[str, ...], BeforeValidator(check_loras)] = ()
    speed: Annotated[int, BeforeValidator(_speed_level), Field(ge=0, le=3)] = 0
    compile: bool = False
    guidance_interval: Interval = None
    ip_adapter: Annotated[str | None, AfterValidator(check_name)] = None
    ip_image: ImageRanges = ()
    ip_scale: Annotated[float, Field(ge=0, le=2)] = 0.7
    controlnet: Annotated[str | None, AfterValidator(check_name)] = None
    control_video: Annotated[str | None, AfterValidator(check_path), Field(validate_default=True)] = None
    controlnet_scale: Annotated[float, Field(ge=0, le=10)] = 1.0
    controlnet_steps: Interval = None
    sparsectrl: Annotated[str | None, AfterValidator(check_name)] = None
    sparse_images: Annotated[FileKeyframes, Field(validate_default=True)] = ()
    sparsectrl_scale: Annotated[float, Field(ge=0, le=10)] = 1.0
    quantize: QuantizeName | None = None

    @field_validator("quantize")
    @classmethod
    def _check_nothing_added(cls, quantize: str | None, info: Any) -> str | None:
        for name in ("loras", "ip_adapter"):
            if quantize is not None and info.data.get(name):
                raise ValueError(f"does not go with {name}; keep one of them")
        return quantize

    @field_validator("init_image")
    @classmethod
    def _check_one_input(cls, image: str | None, info: Any) -> str | None:
        if image is not None and info.data.get("init_video") is not None:
            raise ValueError("does not go with init_video; keep one of them")
        return image

    @field_validator("control_video", "sparse_images")
    @classmethod
    def _check_control(cls, given: Any, info: Any) -> Any:
        network = "controlnet" if info.field_name == "control_video" else "sparsectrl"
        if not given and info.data.get(network) is not None:
            raise ValueError(f"is missing, but {network} is set; name what it reads, or drop both")
        return given

    @field_validator("context_overlap")
    @classmethod
    def _check_overlap(cls, overlap: int | None, info: Any) -> int | None:
        length = info.data.get("context_length")
        if overlap is not None and length is not None and overlap >= length:
            raise ValueError(f"must be below context_length {length}; a quarter of it is usual")
        return overlap

    @field_validator("loop")
    @classmethod
    def _check_loop(cls, loop: bool, info: Any) -> bool:
        schedule = info.data.get("context_schedule")
        if loop and schedule in {"static", "even", "batched"}:
            raise ValueError(f"does not go with context_schedule {schedule}; leave the schedule out")
        return loop

    @property
    def all_prompts(self) -> tuple[str, ...]:
        """Every text that says what the clip shows, each once."""
        texts = (self.prompt_head, self.prompt, *(text for _, text in self.prompt_travel), self.prompt_tail)
        return tuple(dict.fromkeys(text for text in texts if text))

    @property
    def input_files(self) -> dict[str, str]:
        """Pictures and videos that the clip starts from, by the setting that names them."""
        return input_files(self)

    def input_sha256s(self) -> dict[str, str]:
        """Hashes of the files that the clip starts from, as far as they can be read."""
        return input_sha256s(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "GenerationSettings":
        """Settings from keyword values.

        Raises:
            ValueError: one line with the setting, its rule and the value given.
        """
        return validate(cls, Layer(values))

    def with_defaults(self, defaults: Mapping[str, Any]) -> "GenerationSettings":
        """The settings with every None filled from a model's defaults; keys it does not know are ignored.

        Raises:
            ValueError: a default outside its range.
        """
        own = self.model_dump()
        filled = {key: defaults.get(key) if value is None else value for key, value in own.items()}
        return self.from_values(filled)

    def canonical_json(self) -> str:
        """Sorted keys, no spaces, fractions as text: equal settings give equal bytes."""
        return canonical(self.model_dump(mode="json"))

    def job_id(self, model_identity: Mapping[str, Any] | None = None) -> str:
        """First 12 hex digits of the SHA-256 of everything that changes the pixels.

        Args:
            model_identity: hashes of the weights, if known; then the model's name does not count.
        """
        values = counted(self.model_dump(mode="json"), WITHOUT_EFFECT)
        values = content_in_place_of_paths(values, self.input_sha256s())
        if "loras" in values:
            values["loras"] = [lora_identity(entry) for entry in self.loras]
        if model_identity is not None:
            values |= {"model": dict(model_identity), "motion_adapter": None}
        return hashlib.sha256(canonical(values).encode()).hexdigest()[:12]


PIXEL_FIELDS = tuple(name for name in GenerationSettings.model_fields if name not in NO_PIXEL_FIELDS)
"""What a clip's pixels depend on."""

WITHOUT_EFFECT: Mapping[str, Any] = without_effect(GenerationSettings(prompt="-").model_dump(mode="json"))
"""Values at which pixel fields change nothing; they then do not count in a job's id."""


# Settings that change nothing because another one is not set, each with a line that says so.


USED_WITH = {  # setting -> those that are ignored without it
    "init_image": ("image_hold",),
    "ip_adapter": ("ip_scale",),
    "controlnet": ("control_video", "controlnet_scale", "controlnet_steps"),
    "sparsectrl": ("sparse_images", "sparsectrl_scale"),
    "freeinit": ("freeinit_filter", "freeinit_spatial_cutoff", "freeinit_temporal_cutoff"),
}


def ignored_settings(settings: GenerationSettings) -> Iterator[str]:
    """Say of each setting that is asked for and ignored what it needs."""
    if settings.init_video is None and settings.init_image is None:
        yield from _ignored(settings, ("strength", "enforce_steps"), "init_video or init_image")
    for needs, names in USED_WITH.items():
        if not getattr(settings, needs):
            yield from _ignored(settings, names, needs)
    if settings.freenoise:
        if settings.loop or settings.context_schedule != "uniform":
            yield "loop and context_schedule are ignored by freenoise, whose windows never move"
    elif settings.context_length is None:
        yield from _ignored(settings, ("context_overlap", "context_stride", "context_fuse"), "context_length")
        if settings.context_schedule != "uniform_looped":  # which turns a clip of one window
            yield from _ignored(settings, ("context_schedule",), "context_length")


def _ignored(settings: GenerationSettings, names: Iterable[str], needs: str) -> Iterator[str]:
    for name in names:
        if getattr(settings, name) != GenerationSettings.model_fields[name].default:
            yield f"{name} is ignored without {needs}; set that too, or leave it out"
