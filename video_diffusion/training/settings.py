"""Everything that decides how a model is fine-tuned, as one frozen value; read and checked without torch."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from video_diffusion.training.settings_sections import (
    FROZEN,
    CheckpointSettings,
    ClipSettings,
    DataSource,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    Text,
    ValidationSettings,
)

__all__ = [
    "CheckpointSettings",
    "ClipSettings",
    "DataSource",
    "LoraSettings",
    "LossSettings",
    "OptimizerSettings",
    "TrainingSettings",
    "ValidationSettings",
]

TargetName = Literal["temporal", "motion_lora", "domain_lora"]

# May differ between a run and its continuation: none of them changes a weight or a logged loss.
FREE_SETTINGS = frozenset(
    {
        "validation",
        "checkpoint",
        "shard_frozen",
        "num_workers",
        "latent_cache",
        "device",
        "log_with",
        "output",
        "license",
    }
)

# Names of files: a continuation must find the same content, under whatever name.
NAMES = frozenset({"data", "model", "motion_adapter", "domain_lora"})


def _check_regex(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}); see Python's re") from None
    return pattern


def _as_sources(value: object) -> object:
    """One folder, a list of folders, or a list of sections, as a tuple of sections."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple({"path": item} if isinstance(item, str) else item for item in items)


class TrainingSettings(BaseModel):
    """Frozen settings of one fine-tuning run.

    Attributes:
        data: Folders of clips, listed by `video-diffusion data check`.
        model: "embedded", a folder or a hub id; only the target of it is trained.
        motion_adapter: Temporal layers to start from; None takes the model's own, or fresh ones.
        target: All temporal layers; a LoRA on their attention; or a LoRA on the image U-Net, which learns the
            look of the clips apart from their motion.
        temporal_and: Regular expression of image U-Net parameters that are trained together with the temporal
            layers.
        domain_lora: Run or folder of a domain LoRA that is in effect, and stays frozen, while training.
        lora: For the two LoRA targets.
        clips: How training clips are cut from the files.
        num_steps: Optimizer steps.
        batch_size: Clips per step, over all processes and accumulation steps together.
        gradient_accumulation_steps: Pieces in which each process computes its share of the batch.
        seed: Of all draws, each of which depends on (seed, step, item) alone.
        optimizer, loss, validation, checkpoint: See there.
        ema_decay: Of the running average of the trained weights, which is what is saved for use; 0 is off.
        mixed_precision: no, bf16 or fp16.
        gradient_checkpointing: Recompute activations, temporal layers included: less memory, more time.
        shard_frozen: Split the frozen image U-Net over the processes (FSDP), if it is too large for one GPU.
        device: "auto" takes a GPU if there is one.
        num_workers: Processes that read clips ahead; 0 reads in the training process.
        latent_cache: Keep encoded clips and captions on disk: true in the run's folder, a path there, where
            other runs may share it.
        log_with: A tracker of accelerate, such as tensorboard; None writes metrics.jsonl alone.
        output: Folder of the run; the command line's --output wins.
        license: Of the trained weights, for the model card; None leaves it open.
    """

    model_config = FROZEN

    data: Annotated[tuple[DataSource, ...], BeforeValidator(_as_sources), Field(min_length=1)]
    model: Text = "embedded"
    motion_adapter: Text | None = None
    target: TargetName = "temporal"
    temporal_and: Annotated[str | None, AfterValidator(_check_regex)] = None
    domain_lora: Text | None = None
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
    shard_frozen: bool = False
    device: Text = "auto"
    num_workers: Annotated[int, Field(ge=0, le=64)] = 0
    latent_cache: bool | Text = True
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    log_with: Text | None = None
    output: Text | None = None
    license: Text | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingSettings":
        if self.temporal_and is not None and self.target != "temporal":
            raise ValueError(
                f"temporal_and goes with target temporal, not {self.target}; leave one of the two out"
            )
        if self.shard_frozen and (self.temporal_and is not None or self.target == "domain_lora"):
            raise ValueError(
                "shard_frozen splits an image U-Net that is frozen, but temporal_and or domain_lora trains "
                "parts of it; leave one of the two out"
            )
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size must be a multiple of gradient_accumulation_steps, but {self.batch_size} is not "
                f"one of {self.gradient_accumulation_steps}; change one of the two"
            )
        return self

    def binding(self) -> Mapping[str, Any]:
        """The settings that a continuation of the run must share, dotted names to plain values."""
        plain = self.model_dump(mode="json")
        kept = {name: value for name, value in plain.items() if name not in FREE_SETTINGS | NAMES}
        return dict(_flat(kept))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
