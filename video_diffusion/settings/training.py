"""Everything that decides how a model is fine-tuned, as one frozen value; read and checked without torch."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from video_diffusion.settings.field_rules import Fps, Size, check_name, check_path, check_prompt, check_text

ScheduleName = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
NoiseType = Literal["independent", "mixed", "progressive", "constant"]

FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check_regex(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}); see Python's re") from None
    return pattern


Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str | None, AfterValidator(check_name)]
File = Annotated[str, AfterValidator(check_path)]
Prompt = Annotated[str, AfterValidator(check_prompt)]


class DataSource(BaseModel):
    """A folder of clips and its share of what is seen.

    Attributes:
        path: The folder.
        weight: Share of the clips that come from here, relative to the other folders.
        max_missing: Share of the folder's files that may be missing or broken before the run saves and stops;
            above 0 one file always may.
    """

    model_config = FROZEN

    path: File
    weight: Annotated[float, Field(gt=0)] = 1.0
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.01

    def may_miss(self, num_files: int) -> int:
        """How many of the folder's files may turn out to be missing or broken."""
        return max(1, int(self.max_missing * num_files)) if self.max_missing else 0


class ClipSettings(BaseModel):
    """How training clips are cut from the files; None is the model's own number.

    Attributes:
        num_frames, height, width, fps: Of a training clip.
        aspect_buckets: Sizes of other aspects and the same area are used too, each clip in the nearest.
        image_fraction: Share of one-frame clips among the batches; they do not train temporal layers.
        random_start: A window may start anywhere in its file; False takes the first place every time.
        starts: Places, evenly spread, at which a window may start, so that all encodings can be kept; None
            is every frame.
        windows: One clip of each file in an epoch, or as many as fit side by side.
        too_short: Whether files shorter than a clip are left out, start over at their end, or are cut to half
            the frames, a quarter and so on; batches then hold clips of one length.
        flip: Mirror every other clip; captions that say left or right then lie.
        repeat_frames: Take files of a lower rate too, whose frames are then shown several times.
        allow_upscaling: Take files of a smaller size too, which are then blurred.
        held_out: Clips of each folder kept from training to measure the loss on; None is a sixteenth, at most
            16.
        caption_prefix: Put before every caption, such as "in the manner of zky, "; clips without a caption
            get it as their caption.
    """

    model_config = FROZEN

    num_frames: Annotated[int | None, Field(ge=1, le=4096)] = None
    height: Size = None
    width: Size = None
    fps: Fps = None
    aspect_buckets: bool = False
    image_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    random_start: bool = True
    starts: Annotated[int | None, Field(ge=1, le=4096)] = None
    windows: Literal["one", "all"] = "one"
    too_short: Literal["reject", "loop", "shorten"] = "reject"
    flip: bool = False
    repeat_frames: bool = False
    allow_upscaling: bool = False
    held_out: Annotated[int | None, Field(ge=0)] = None
    caption_prefix: Text | None = None


class LoraSettings(BaseModel):
    """Size of a low-rank adaptation (Hu et al. 2021).

    Attributes:
        rank: Of each correction.
        alpha: The correction counts alpha / rank times; None is rank: once.
        dropout: Share of its input features dropped while training.
        target_modules: The layers corrected: attention, attention_and_feed_forward, or a regular expression
            that matches their whole names.
        init: A LoRA of the same rank to go on from, as file, run or hub id; None begins with no correction.
    """

    model_config = FROZEN

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float | None, Field(gt=0)] = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[str, AfterValidator(_check_regex)] = "attention"
    init: Name = None

    @property
    def factor(self) -> float:
        """How many times the correction counts."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LossSettings(BaseModel):
    """What the network is asked, at which noise levels, and what counts how much.

    Attributes:
        min_snr_gamma: Noise levels weigh min(SNR, gamma) as in Hang et al. 2023; None weighs all alike.
        zero_terminal_snr: Rescale the schedule so that its last step is pure noise (Lin et al. 2023).
        noise_offset: Standard deviation of a shift of all pixels of a frame's channel, the same for all
            frames of a clip.
        noise_type: How the frames' noises hang together (PYoCo, Ge et al. 2023).
        noise_alpha: How strongly, for mixed and progressive noise.
        caption_dropout: Chance of training a clip without its caption, which guidance needs.
        appearance_debias: Weight beta of MotionDirector's loss (Zhao et al. 2023), which subtracts one
            frame's noise so that motion counts and appearance does not; 0 switches it off.
        timestep_sampling: Uniform, or the middle levels more often (logit-normal, Esser et al. 2024).
        timestep_shift: Above 1 favours high noise, where motion is decided; below 1 low noise. A level u in
            [0, 1] becomes shift u / (1 + (shift - 1) u).
    """

    model_config = FROZEN

    min_snr_gamma: Annotated[float | None, Field(gt=0)] = None
    zero_terminal_snr: bool = False
    noise_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    noise_type: NoiseType = "independent"
    noise_alpha: Annotated[float, Field(ge=0, le=100)] = 1.0
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    appearance_debias: Annotated[float, Field(ge=0, le=10)] = 0.0
    timestep_sampling: Literal["uniform", "logit_normal"] = "uniform"
    timestep_shift: Annotated[float, Field(gt=0, le=100)] = 1.0


class OptimizerSettings(BaseModel):
    """The optimizer and its rate.

    Attributes:
        name: adamw; adamw_8bit for less memory (needs bitsandbytes and a GPU); muon, which turns matrices by
            Muon and the rest by AdamW; or any other of pytorch-optimizer's that can be resumed exactly, such
            as prodigy (at a learning_rate of 1) or lion.
        learning_rate: At its peak.
        schedule: Of diffusers' `get_scheduler`.
        warmup_steps: Over which the rate rises from zero.
        beta1, beta2, epsilon, weight_decay: Of AdamW, and of others that have them.
        max_grad_norm: Gradients longer than this are shortened to it; None leaves them.
    """

    model_config = FROZEN

    name: Annotated[str, Field(pattern="^[a-z0-9_]{2,40}$")] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    schedule: ScheduleName = "constant_with_warmup"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    max_grad_norm: Annotated[float | None, Field(gt=0)] = 1.0


class DistilSettings(BaseModel):
    """How a few-step student is made of its guided teacher, which is the model as the run begins.

    Attributes:
        num_inference_steps: Of the student.
        teacher_steps: Of the teacher, a multiple of the student's.
        guidance_scale: Of the teacher; None is the model's own.
        temporal_guidance: Of the teacher: away from what it answers without its temporal layers.
        motion_effect: Of the teacher: factor on what its temporal layers add.
        clips: That the teacher makes, and the student learns from.
        prompts: A text file with a prompt in each line, beside or in place of the captions of data.
    """

    model_config = FROZEN

    num_inference_steps: Annotated[int, Field(ge=1, le=64)] = 4
    teacher_steps: Annotated[int, Field(ge=1, le=1000)] = 12
    guidance_scale: Annotated[float | None, Field(ge=0, le=50)] = None
    temporal_guidance: Annotated[float, Field(ge=0, le=50)] = 0.0
    motion_effect: Annotated[float, Field(ge=0, le=10)] = 1.0
    clips: Annotated[int, Field(ge=1)] = 512
    prompts: Annotated[str | None, AfterValidator(check_path)] = None

    @model_validator(mode="after")
    def _steps_nest(self) -> "DistilSettings":
        rest = self.teacher_steps % self.num_inference_steps
        if rest:
            nearest_one = self.teacher_steps + self.num_inference_steps - rest
            raise ValueError(
                f"teacher_steps must be a multiple of num_inference_steps, but {self.teacher_steps} is "
                f"not one of {self.num_inference_steps}; choose {nearest_one}"
            )
        return self


class ValidationSettings(BaseModel):
    """What is made and measured on the way; it never changes the training.

    Attributes:
        every: Steps between validations; None validates before the first and after the last step only, 0
            never.
        prompts: Of the clips; None takes captions of held-out clips, an empty list makes no clips.
        seeds: One clip for each prompt and seed.
        num_inference_steps: Of the clips; None is the model's own.
        guidance_scale: Of the clips; None is the model's own.
    """

    model_config = FROZEN

    every: Annotated[int | None, Field(ge=0)] = None
    prompts: Annotated[tuple[Prompt, ...] | None, BeforeValidator(_as_tuple)] = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...], BeforeValidator(_as_tuple)] = (0,)
    num_inference_steps: Annotated[int | None, Field(ge=1, le=1000)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=50)] = None


class CheckpointSettings(BaseModel):
    """When the state is saved, and how many are kept.

    Attributes:
        every: Steps between checkpoints.
        keep: Newest ones that stay; older ones go after a new one verified. None keeps all.
    """

    model_config = FROZEN

    every: Annotated[int, Field(ge=1)] = 100
    keep: Annotated[int | None, Field(ge=1)] = 2


# Everything that decides how a model is fine-tuned, as one frozen value; read and checked without torch.


TargetName = Literal["temporal", "motion_lora", "domain_lora"]

# May differ between a run and its continuation: none of them changes a weight or a logged loss.
FREE_SETTINGS = frozenset(
    {
        "validation",
        "checkpoint",
        "shard_frozen",
        "num_workers",
        "latent_cache",
        "latent_cache_gb",
        "device",
        "log_with",
        "log_name",
        "activation_offload",
        "output",
        "license",
    }
)

# Names of files: a continuation must find the same content, under whatever name.
NAMES = frozenset({"data", "model", "motion_adapter", "domain_lora"})

# Only says where the weights of step 0 came from.
BEGINNINGS = frozenset({"lora.init"})


def _as_sources(value: object) -> object:
    """One folder, a list of folders, or a list of sections, as a tuple of sections."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple({"path": item} if isinstance(item, str) else item for item in items)


class TrainingSettings(BaseModel):
    """Frozen settings of one fine-tuning run.

    Attributes:
        data: Folders of clips, listed by `video-diffusion data check`; distilling reads their captions alone,
            and needs none where it has prompts.
        model: "embedded", a folder or a hub id; only the target of it is trained.
        motion_adapter: Temporal layers to start from; None takes the model's own, or fresh ones; of the
            embedded model its teacher, since its own are for four steps.
        target: All temporal layers; a LoRA on their attention; or a LoRA on the image U-Net, which learns the
            look of the clips apart from their motion.
        temporal_and: Regular expression of image U-Net parameters that are trained together with the temporal
            layers.
        image_lora: Train a LoRA on the image U-Net, as `lora` describes it, together with the temporal
            layers; it lies beside them and comes with them.
        domain_lora: Run or folder of a domain LoRA that is in effect, and stays frozen, while training.
        objective: Denoise clips, or distil a few-step student from the model itself, see `DistilSettings`.
        distil: For the objective of that name.
        lora: For the two LoRA targets, and for image_lora.
        clips: How training clips are cut from the files.
        num_steps: Optimizer steps.
        batch_size: Clips per step, over all processes and accumulation steps together.
        gradient_accumulation_steps: Pieces in which each process computes its share of the batch.
        seed: Of all draws, each of which depends on (seed, step, item) alone.
        optimizer, loss, validation, checkpoint: See there.
        ema_decay: Of the running average of the trained weights, which is what is saved for use; 0 is off.
        mixed_precision: no, bf16 or fp16.
        gradient_checkpointing: Recompute activations, temporal layers included: less memory, more time.
        activation_offload: Keep what the backward pass needs in the computer's memory instead of the GPU's:
            less of it there, more time.
        shard_frozen: Split the frozen image U-Net over the processes (FSDP), if it is too large for one GPU.
        device: "auto" takes a GPU if there is one.
        num_workers: Processes that read clips ahead; 0 reads in the training process.
        latent_cache: Keep encoded clips and captions on disk: true in the run's folder, a path there, where
            other runs may share it.
        latent_cache_gb: The oldest encodings of clips go when all of them take more than so many gigabytes;
            None keeps all.
        log_with: A tracker of accelerate, such as tensorboard; None writes metrics.jsonl alone.
        log_name: Of the run there; None is its folder's.
        output: Folder of the run; the command line's --output wins.
        license: Of the trained weights, for the model card; None leaves it open.
    """

    model_config = FROZEN

    data: Annotated[tuple[DataSource, ...], BeforeValidator(_as_sources)] = ()
    model: Annotated[str, AfterValidator(check_name)] = "embedded"
    motion_adapter: Name = None
    target: TargetName = "temporal"
    temporal_and: Annotated[str | None, AfterValidator(_check_regex)] = None
    image_lora: bool = False
    domain_lora: Name = None
    objective: Literal["denoise", "distil"] = "denoise"
    distil: DistilSettings = DistilSettings()
    lora: LoraSettings = LoraSettings()
    clips: ClipSettings = ClipSettings()
    num_steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 16
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: LossSettings = LossSettings()
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    activation_offload: bool = False
    shard_frozen: bool = False
    device: Text = "auto"
    num_workers: Annotated[int, Field(ge=0, le=64)] = 0
    latent_cache: bool | Text = True
    latent_cache_gb: Annotated[float | None, Field(gt=0, le=1_000_000)] = None
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    log_with: Text | None = None
    log_name: Text | None = None
    output: Text | None = None
    license: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_teacher(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("motion_adapter") is not None:
            return values
        is_embedded = values.get("model", "embedded") == "embedded"
        return {**values, "motion_adapter": "teacher"} if is_embedded else values

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingSettings":
        if not self.data and (self.objective != "distil" or self.distil.prompts is None):
            raise ValueError("data is missing; give a folder of clips, or several")
        if self.objective == "distil" and (
            self.target != "temporal" or self.domain_lora is not None or self.shard_frozen
        ):
            raise ValueError(
                "objective distil trains target temporal (image_lora and temporal_and may go with it), whose "
                "adapter carries the student's schedule, without domain_lora and shard_frozen; leave them "
                "out, or set objective denoise"
            )
        if self.lora.init is not None and self.target == "temporal":
            raise ValueError(
                "lora.init goes with a target that is a LoRA, not temporal; set target motion_lora or "
                "domain_lora, or begin with other temporal layers by motion_adapter"
            )
        if self.temporal_and is not None and self.target != "temporal":
            raise ValueError(
                f"temporal_and goes with target temporal, not {self.target}; leave one of the two out"
            )
        if self.image_lora and (self.target != "temporal" or self.temporal_and is not None):
            other = f"target {self.target}" if self.target != "temporal" else "temporal_and"
            raise ValueError(
                f"image_lora goes with target temporal and without temporal_and, not with {other}; leave one "
                "of the two out"
            )
        trains_unet = self.temporal_and is not None or self.image_lora or self.target == "domain_lora"
        if self.shard_frozen and trains_unet:
            raise ValueError(
                "shard_frozen splits an image U-Net that is frozen, but temporal_and, image_lora or "
                "target domain_lora trains parts of it; leave one of the two out"
            )
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size must be a multiple of gradient_accumulation_steps, but {self.batch_size} is not "
                f"one of {self.gradient_accumulation_steps}; change one of the two"
            )
        return self

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every setting and section by its dotted name, as `--allow` may name it."""
        plain = cls.model_validate({"data": "clips"}).model_dump(mode="json", exclude={"data"})
        return ("data", *plain, *(name for name, _ in _flat(plain) if "." in name))

    def binding(self) -> Mapping[str, Any]:
        """The settings that a continuation of the run must share, dotted names to plain values."""
        plain = self.model_dump(mode="json")
        kept = {name: value for name, value in plain.items() if name not in FREE_SETTINGS | NAMES}
        return {name: value for name, value in _flat(kept) if name not in BEGINNINGS}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
