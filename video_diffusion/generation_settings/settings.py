"""Everything that decides what a clip looks like, as one frozen value; checked before any model is loaded."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
)

from video_diffusion.config import Layer, validate
from video_diffusion.generation_settings.field_rules import (
    ContextFuse,
    ContextSchedule,
    DtypeName,
    Fps,
    FrequencyFilter,
    Interval,
    NoiseType,
    QuantizeName,
    SchedulerName,
    Size,
    check_device,
    check_name,
    check_path,
    check_prompt,
    check_text,
)
from video_diffusion.generation_settings.identity import (
    NO_PIXEL_FIELDS,
    canonical,
    counted,
    without_effect,
)
from video_diffusion.generation_settings.image_ranges import ImageRanges
from video_diffusion.generation_settings.input_files import check_loras, lora_identity
from video_diffusion.generation_settings.keyframes import FileKeyframes
from video_diffusion.generation_settings.named_files import (
    content_in_place_of_paths,
    input_files,
    input_sha256s,
)
from video_diffusion.generation_settings.travel_settings import TravelSettings

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
