"""A whole run: train, log, validate, save; resumable at any step, in one process or several."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from video_diffusion.loading import choose_device, load_model
from video_diffusion.loading.motion import ZERO_TERMINAL_SNR
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.text import unknown_words
from video_diffusion.training.clips import EncodingCaches, Sources, open_sources
from video_diffusion.training.loop import Trainer, TrainingStep
from video_diffusion.training.report import CARD_FILE, model_card, write_report
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.state import Facts, agreement, load_state, newest_checkpoint, save_state
from video_diffusion.training.targets import check_target
from video_diffusion.training.validation import Validation, Validator
from video_diffusion.video import write_bytes

# The others wait while the first process validates and saves.
LONGEST_WAIT = timedelta(hours=2)


def make_accelerator(settings: TrainingSettings, folder: Path | None = None) -> Accelerator:
    """Device, precision and processes, as `accelerate launch` and `torchrun` say."""
    if settings.log_with is not None:
        check_tracker(settings.log_with)
    asked = choose_device(settings.device)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=settings.device == "cpu",
        log_with=settings.log_with,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False, find_unused_parameters=settings.temporal_and is not None
            ),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
        project_dir=folder,
    )
    given = accelerator.device
    if settings.device != "auto" and (given.type, given.index or 0) != (asked.type, asked.index or 0):
        raise ValueError(
            f"device is {settings.device} but accelerate trains on {given} here; set device to auto, and "
            "choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    return accelerator


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot log here."""
    from accelerate.tracking import get_available_trackers  # noqa: PLC0415

    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    if name not in available:
        raise ValueError(
            f"log_with must be a tracker that accelerate knows and that is installed, not {name!r}; here are "
            f"{', '.join(available) or 'none'}"
        )


# Words that a model of a small world learns from the captions it is trained on.


def record_words(pipeline: TextToVideoPipeline, captions: Iterable[str]) -> None:
    """Write into an adapter's configuration the words its model knew and those of the captions.

    `generate` then no longer calls them unknown. Models of no stated vocabulary are left as they are.
    """
    known = pipeline.vocabulary
    if not known:
        return
    learned = {word for caption in captions for word in unknown_words(caption, known)}
    pipeline.parts.motion_adapter.register_to_config(vocabulary=[*known, *sorted(learned)])


# A whole run: train, log, validate, save; resumable at any step.


@dataclass
class Run:
    """A run with everything open: `fit` trains it.

    Attributes:
        trainer, validator: See there.
        folder: Where it keeps what it has.
        facts: What a continuation must share.
        sources: Its clips.
        seconds: Of training so far, over all sittings.
    """

    trainer: Trainer
    validator: Validator
    folder: RunFolder
    facts: Facts
    sources: Sources
    seconds: float = 0.0

    def save(self) -> None:
        """Write a checkpoint of the run as it stands, and its weights for use; one process writes for all."""
        if self.trainer.accelerator.is_main_process:
            keep = self.trainer.settings.checkpoint.keep
            checkpoint = save_state(self.trainer, self.folder.checkpoints, self.facts, keep, self.seconds)
            self.folder.publish(checkpoint)
            self.describe()
        self.trainer.accelerator.wait_for_everyone()

    def anybody(self, wants: bool) -> bool:
        """Whether any process of the run wants something; all of them must ask, and get the same answer."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return wants
        wish = torch.tensor(float(wants), device=accelerator.device)
        return float(accelerator.reduce(wish, "sum")) > 0

    def describe(self) -> None:
        """Write what can be read of the run so far: report.html, and the card beside the weights."""
        trainer, settings = self.trainer, self.trainer.settings
        parts = trainer.pipeline.parts
        validations = self.validations()
        card = model_card(settings, self.sources, parts.identity, validations, trainer.step)
        write_bytes(self.folder.folder / CARD_FILE, card.encode())
        clips = sum(self.sources.num_clips.values())
        facts = {
            "trained": settings.target.replace("_", " "),
            "base model": parts.identity.name,
            "steps": f"{trainer.step} of {settings.num_steps}",
            "clips": f"{clips}, {sum(self.sources.num_held_out)} more held out",
            "batch": str(settings.batch_size),
            "peak rate": f"{settings.optimizer.learning_rate:g}",
            "time": f"{self.seconds / 60:.1f} min",
        }
        write_report(self.folder, self.folder.folder.resolve().name, facts)

    def validations(self) -> list[Validation]:
        """All so far, the first one first."""
        return [Validation.from_row(row) for row in self.folder.rows() if "validation" in row]


def open_run(settings: TrainingSettings, folder: RunFolder, accelerator: Accelerator | None = None) -> Run:
    """Load the model, open the data, and go to where the newest whole checkpoint left off."""
    check_target(settings.target)
    accelerator = accelerator or make_accelerator(settings, folder.folder)
    pipeline = load_pipeline(settings, accelerator)
    parts, caches = pipeline.parts, None
    if settings.latent_cache:
        cache_folder = (
            folder.folder / "cache" if settings.latent_cache is True else Path(settings.latent_cache)
        )
        caches = EncodingCaches(cache_folder, parts)
    is_cached = None if caches is None else caches.latents.__contains__
    sources = open_sources(settings, pipeline.defaults, is_cached)
    record_words(pipeline, sources.captions)
    trainer = Trainer(settings, pipeline, sources.training, accelerator, caches)
    validator = Validator(trainer, settings.validation, sources.held_out, folder.folder)
    run = Run(trainer, validator, folder, agreement(settings, trainer, sources.hashes), sources)
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is not None:
        run.seconds = load_state(trainer, checkpoint, run.facts)
    return run


def load_pipeline(settings: TrainingSettings, accelerator: Accelerator) -> TextToVideoPipeline:
    """The model of a run, on its device, in float32."""
    parts = load_model(settings.model, settings.motion_adapter)
    if settings.loss.zero_terminal_snr:
        parts = replace(parts, scheduler_config={**parts.scheduler_config, **ZERO_TERMINAL_SNR})
    return TextToVideoPipeline(parts, accelerator.device)


def fit(run: Run) -> Iterator[TrainingStep]:
    """Train to the end, yielding after every step is logged, measured and saved as the settings say.

    Whoever iterates may stop at any step; `run.save()` then keeps it.
    """
    trainer, settings = run.trainer, run.trainer.settings
    main = trainer.accelerator.is_main_process
    validate_every, save_every = settings.validation.every, settings.checkpoint.every
    if main:
        run.folder.write_config(settings)
        run.folder.forget_after(trainer.step or -1)
    if settings.log_with is not None:
        trainer.accelerator.init_trackers("training", {k: str(v) for k, v in settings.binding().items()})
    if trainer.step == 0 and validate_every != 0:
        _validate(run)
    trainer.accelerator.wait_for_everyone()
    began = time.monotonic() - run.seconds
    for step in trainer.steps():
        run.seconds = time.monotonic() - began
        last = step.step == settings.num_steps
        if main:
            run.folder.append(step_row(step))
            trainer.accelerator.log(step_row(step), step=step.step)
        if validate_every != 0 and (last or (validate_every and step.step % validate_every == 0)):
            paused = time.monotonic()
            _validate(run)
            began += time.monotonic() - paused
        if last or step.step % save_every == 0:
            run.save()
        yield step
    trainer.accelerator.end_training()


def step_row(step: TrainingStep) -> dict[str, float | int | None]:
    """A step as a row of metrics.jsonl."""
    return {
        "step": step.step,
        "loss": _finite(step.loss),
        "learning_rate": step.learning_rate,
        "grad_norm": _finite(step.grad_norm),
        "seconds": round(step.seconds, 4),
    }


def _validate(run: Run) -> None:
    """Validate and log; of several processes the first, unless each holds but a share of the model."""
    accelerator = run.trainer.accelerator
    if not (accelerator.is_main_process or run.trainer.settings.shard_frozen):
        return
    found = run.validator.validate()
    if not accelerator.is_main_process:
        return
    run.folder.append(found.to_row())
    measured = {f"validation/{name}": value for name, value in found.measures.items() if value is not None}
    if found.held_out_loss is not None:
        measured["validation/held_out_loss"] = found.held_out_loss
    run.trainer.accelerator.log(measured, step=found.step)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
