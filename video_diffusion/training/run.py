"""A whole run: train, log, validate, save; resumable at any step, in one process or several."""

import math
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from video_diffusion.loading import ModelParts, choose_device, load_model
from video_diffusion.loading.motion import ZERO_TERMINAL_SNR, distilled_settings
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.text import unknown_words
from video_diffusion.training.clips import (
    MOST_LOOKED_UP,
    EncodingCaches,
    Sources,
    clip_size,
    open_sources,
    plan_cache,
)
from video_diffusion.training.data.manifest import ClipChangedError
from video_diffusion.training.distil import KnotClips, OnClip, teachers_clips
from video_diffusion.training.loop import NonFiniteLossError, Trainer, TrainingStep
from video_diffusion.training.objective import training_scheduler
from video_diffusion.training.report import CARD_FILE, model_card, write_report
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.state import Facts, agreement, load_state, newest_checkpoint, save_state
from video_diffusion.training.targets import check_target
from video_diffusion.training.validation import Validation, Validator, validations_of, what_changed
from video_diffusion.video import VideoReadError, read_video, write_bytes

# The others wait while the first process validates and saves.
LONGEST_WAIT = timedelta(hours=2)
# How trackers are told that the channels of frames come last.
LAYOUT = {"tensorboard": {"dataformats": "NHWC"}}


def make_accelerator(settings: TrainingSettings, folder: Path | None = None) -> Accelerator:
    """Device, precision and processes, as `accelerate launch` and `torchrun` say."""
    if settings.log_with is not None:
        check_tracker(settings.log_with)
    asked = choose_device(settings.device)
    if settings.mixed_precision == "fp16" and asked.type == "cpu":
        raise ValueError(
            "mixed_precision fp16 needs a GPU, whose gradients it scales, but this run is on a CPU; set bf16 "
            "or no"
        )
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=settings.device == "cpu",
        log_with=settings.log_with,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,
                find_unused_parameters=settings.temporal_and is not None or settings.image_lora,
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
        changes: What differs from the run so far, as it was allowed to.
        lost: Per folder, what is wrong with the files that could not be read.
        saved_at: Step of the newest checkpoint.
    """

    trainer: Trainer
    validator: Validator
    folder: RunFolder
    facts: Facts
    sources: Sources
    seconds: float = 0.0
    changes: tuple[str, ...] = ()
    lost: dict[int, set[str]] = field(default_factory=dict)
    saved_at: int = 0

    def save(self) -> None:
        """Write a checkpoint of the run as it stands, and its weights for use; one process writes for all."""
        if self.trainer.accelerator.is_main_process:
            keep = self.trainer.settings.checkpoint.keep
            checkpoint = save_state(self.trainer, self.folder.checkpoints, self.facts, keep, self.seconds)
            self.folder.publish(checkpoint)
            self.describe()
        self.saved_at = self.trainer.step
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
        changes = [
            f"from step {row['step']}: {line}"
            for row in self.folder.rows()
            for line in row.get("allowed", ())
        ]
        card = model_card(settings, self.sources, parts.identity, validations, trainer.step, changes)
        write_bytes(self.folder.folder / CARD_FILE, card.encode())
        clips = sum(self.sources.num_clips.values())
        facts = {
            "trained": settings.target.replace("_", " "),
            "objective": settings.objective,
            "base model": parts.identity.name,
            "steps": f"{trainer.step} of {settings.num_steps}",
            "clips": f"{clips}, {sum(self.sources.num_held_out)} more held out",
            "batch": str(settings.batch_size),
            "peak rate": f"{settings.optimizer.learning_rate:g}",
            "time": f"{self.seconds / 60:.1f} min",
        }
        write_report(self.folder, self.folder.folder.resolve().name, facts)

    def validations(self) -> list[Validation]:
        """All so far that succeeded, the first one first."""
        return validations_of(self.folder.rows())

    def note_lost(self, lost: Iterable[tuple[int, str]]) -> None:
        """Count files that could not be read, and warn of each once.

        Raises:
            ClipChangedError: More than `max_missing` of a folder are gone; the run has saved.
        """
        for source, reason in lost:
            known = self.lost.setdefault(source, set())
            if reason in known:
                continue
            known.add(reason)
            if self.trainer.accelerator.is_main_process:
                self.folder.append({"step": self.trainer.step, "lost": reason})
                warnings.warn(f"{reason}; the next clip takes its place", stacklevel=2)
            may_miss = self.sources.may_miss[source]
            if len(known) > may_miss:
                self.save()
                raise ClipChangedError(
                    f"{list(self.sources.num_clips)[source]}: {len(known)} of its files cannot be read, "
                    f"data.max_missing allows {may_miss}, the last: {reason}; the run is saved: put them "
                    "back, or check the folder again and go on with --resume --allow data"
                )


def open_run(
    settings: TrainingSettings,
    folder: RunFolder,
    accelerator: Accelerator | None = None,
    allowed: Collection[str] = (),
    on_clip: OnClip = lambda done, total: None,
) -> Run:
    """Load the model, open the data, and go to where the newest whole checkpoint left off.

    Args:
        settings: Of the run.
        folder: Where it is, or begins.
        accelerator: Device, precision and processes; None makes one.
        allowed: Settings and sections that may differ from those of the checkpoint.
        on_clip: Told of each clip that a teacher makes before the training.
    """
    check_target(settings)
    checkpoint = newest_checkpoint(folder.checkpoints)  # before the model: that takes minutes
    accelerator = accelerator or make_accelerator(settings, folder.folder)
    pipeline = load_pipeline(settings, accelerator)
    parts, caches = pipeline.parts, None
    if settings.latent_cache:
        caches = open_caches(settings, folder.folder, parts)
    is_cached = None if caches is None else caches.latents.__contains__
    sources = open_sources(settings, pipeline.defaults, is_cached)
    record_words(pipeline, sources.captions)
    pool = None
    if settings.objective == "distil":
        scheduler = training_scheduler(parts.scheduler_config, settings.loss)
        sources, pool = teachers_clips(settings, pipeline, sources, scheduler, folder.folder / "cache")
    trainer = Trainer(settings, pipeline, sources.training, accelerator, caches)
    validator = Validator(trainer, settings.validation, sources.held_out, folder.folder)
    every = [*(source.clips for source in sources.training), *sources.held_out]
    for clips in every if pool is not None else ():  # before a checkpoint makes a student of the model
        assert isinstance(clips, KnotClips) and pool is not None
        clips.fill(pool, accelerator, on_clip)
    run = Run(trainer, validator, folder, agreement(settings, trainer, sources.hashes), sources)
    if checkpoint is not None:
        run.seconds, run.changes = load_state(trainer, checkpoint, run.facts, allowed)
        run.saved_at = trainer.step
    rows = folder.rows()
    trainer.broken_steps = frozenset(row["step"] for row in rows if "not_finite" in row)
    validator.num_failed = sum("error" in row.get("validation", ()) for row in rows)
    return run


def open_caches(settings: TrainingSettings, folder: Path, parts: ModelParts) -> EncodingCaches:
    """Where the encodings of a run are kept: in its folder, or where the settings say."""
    place = Path(settings.latent_cache) if isinstance(settings.latent_cache, str) else folder / "cache"
    return EncodingCaches(place, parts, settings.latent_cache_gb)


def latent_shape(settings: TrainingSettings, pipeline: TextToVideoPipeline) -> tuple[int, int, int]:
    """Channels, height and width of a training clip's latents."""
    _, height, width, _ = clip_size(settings.clips, pipeline.defaults)
    scale = pipeline.latent_scale
    return int(pipeline.parts.vae.config.latent_channels), height // scale, width // scale


def cache_line(run: Run) -> str:
    """What keeping the encodings of all clips takes; empty where nothing is kept, or nothing to be told."""
    trainer, settings = run.trainer, run.trainer.settings
    caches = trainer.encoder.caches
    if caches is None or settings.objective == "distil":
        return ""
    plan = plan_cache(run.sources, caches.latents, latent_shape(settings, trainer.pipeline))
    bound = f", the oldest go beyond {settings.latent_cache_gb:g} GB" if settings.latent_cache_gb else ""
    if plan is None:
        return (
            "latent cache: windows may start at any frame, so it never holds all; clips.starts or "
            f"clips.random_start: false would let it{bound}"
        )
    about = "about " if len(plan) > MOST_LOOKED_UP else ""
    return (
        f"latent cache: {len(plan)} clips of {plan.bytes_each / 1e3:.0f} kB, "
        f"{plan.num_bytes / 1e9:.2g} GB in all, {about}{plan.num_there()} are there{bound}"
    )


def load_pipeline(settings: TrainingSettings, accelerator: Accelerator) -> TextToVideoPipeline:
    """The model of a run, on its device, in float32."""
    parts = load_model(settings.model, settings.motion_adapter)
    made_for = distilled_settings(parts.motion_adapter.config).get("num_inference_steps")
    goes_on_distilling = settings.objective == "distil" and settings.distil.teacher_steps == made_for
    if made_for is not None and not goes_on_distilling:
        warnings.warn(
            f"motion_adapter {settings.motion_adapter or 'of ' + settings.model} was distilled to {made_for} "
            "steps, which training may undo; give the temporal layers that it learned from",
            stacklevel=3,
        )
    if settings.loss.zero_terminal_snr:
        parts = replace(parts, scheduler_config={**parts.scheduler_config, **ZERO_TERMINAL_SNR})
    if settings.objective == "distil":
        parts = replace(parts, scheduler_config={**parts.scheduler_config, "timestep_spacing": "trailing"})
    return TextToVideoPipeline(parts, accelerator.device)


def fit(run: Run, wants_to_stop: Callable[[], bool] = lambda: False) -> Iterator[TrainingStep]:
    """Train to the end, yielding after every step is logged, saved and measured as the settings say.

    Whoever iterates may stop at any step; `run.save()` then keeps it. `wants_to_stop` is asked during
    validations too, which are then left unfinished.

    Raises:
        NonFiniteLossError: The loss turned NaN; the next sitting leaves this step out.
        ClipChangedError: Too many files cannot be read; the run has saved.
    """
    trainer, settings = run.trainer, run.trainer.settings
    validate_every, save_every = settings.validation.every, settings.checkpoint.every
    watch = _begin(run)
    measured = {each.step for each in run.validations()}
    at_an_end = validate_every != 0 and trainer.step in {0, settings.num_steps}
    if run.anybody(trainer.accelerator.is_main_process and at_an_end and trainer.step not in measured):
        _validate(run, wants_to_stop)
    if run.anybody(wants_to_stop()):
        return
    began = time.monotonic() - run.seconds
    try:
        for step in trainer.steps():
            run.seconds = time.monotonic() - began
            last = step.step == settings.num_steps
            _log(run, step, watch)
            validates = validate_every != 0 and (last or (validate_every and step.step % validate_every == 0))
            if validates or last or step.step % save_every == 0:
                run.save()
            if validates:
                paused = time.monotonic()
                _validate(run, wants_to_stop)
                began += time.monotonic() - paused
            yield step
    except NonFiniteLossError as error:
        if trainer.accelerator.is_main_process and error.step is not None:
            run.folder.append({"step": error.step, "loss": None, "not_finite": True})
        raise
    except (ClipChangedError, VideoReadError):
        if run.saved_at < trainer.step:
            run.save()
        raise
    trainer.accelerator.end_training()


def _begin(run: Run) -> "DivergenceWatch":
    """Make the run's folder say what this sitting starts from."""
    trainer, settings, watch = run.trainer, run.trainer.settings, DivergenceWatch()
    if trainer.accelerator.is_main_process:
        run.folder.write_config(settings)
        run.folder.forget_after(trainer.step or -1)
        for row in run.folder.rows():
            watch.diverges(row.get("loss"))
        if run.changes:
            run.folder.append({"step": trainer.step, "allowed": list(run.changes)})
    if run.changes:
        run.save()  # so that the next sitting need not be allowed them again
    if settings.log_with is not None:
        name = settings.log_name or run.folder.folder.resolve().name
        trainer.accelerator.init_trackers(name, {k: str(v) for k, v in settings.binding().items()})
    trainer.accelerator.wait_for_everyone()
    return watch


def _log(run: Run, step: TrainingStep, watch: "DivergenceWatch") -> None:
    """Log a step, and warn of what somebody should know: a loss that runs away, files that are gone."""
    if run.trainer.accelerator.is_main_process:
        run.folder.append(step_row(step))
        run.trainer.accelerator.log(step_row(step), step=step.step)
        if watch.diverges(step.loss):
            warnings.warn(
                f"the loss has been above {DIVERGED:g} times its running median for {watch.patience} steps, "
                f"at step {step.step}; it may not come back: lower optimizer.learning_rate",
                stacklevel=2,
            )
    run.note_lost(step.lost)


DIVERGED = 3.0


class DivergenceWatch:
    """Tells when a loss has left its usual range for long: above three times its running median.

    Losses that are too high do not enter the median, so that it stays what it was.

    Attributes:
        patience: Steps in a row after which it is told, once.
    """

    patience, window, fewest = 50, 200, 20

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=self.window)
        self._num_high = 0

    def diverges(self, loss: float | None) -> bool:
        """Take the next loss; True at the step at which it is to be told."""
        if loss is None or not math.isfinite(loss):
            return False
        if len(self._usual) < self.fewest or loss <= DIVERGED * statistics.median(self._usual):
            self._usual.append(loss)
            self._num_high = 0
        else:
            self._num_high += 1
        return self._num_high == self.patience


def step_row(step: TrainingStep) -> dict[str, float | int | bool | None]:
    """A step as a row of metrics.jsonl."""
    row: dict[str, float | int | bool | None] = {
        "step": step.step,
        "loss": _finite(step.loss),
        "learning_rate": step.learning_rate,
        "grad_norm": _finite(step.grad_norm),
        "seconds": round(step.seconds, 4),
    }
    return {**row, "skipped": True} if step.skipped else row


def _validate(run: Run, wants_to_stop: Callable[[], bool]) -> None:
    """Validate and log; of several processes the first, unless each holds but a share of the model.

    Whatever goes wrong becomes a row with its error: a measurement must not end a training.
    """
    accelerator = run.trainer.accelerator
    if accelerator.is_main_process or run.trainer.settings.shard_frozen:
        found = run.validator.validate(wants_to_stop)
        if accelerator.is_main_process and found is not None:
            run.folder.append(found.to_row())
            if found.error:
                warnings.warn(
                    f"the validation at step {found.step} failed ({found.error}); training goes on, and the "
                    "next one is smaller",
                    stacklevel=2,
                )
            measures = {"held_out_loss": found.held_out_loss, **found.measures}
            logged = {f"validation/{name}": value for name, value in measures.items() if value is not None}
            accelerator.log(logged, step=found.step)
            _show_to_trackers(run, found)
            if run.saved_at == found.step > 0:
                run.describe()
    accelerator.wait_for_everyone()


def _show_to_trackers(run: Run, found: Validation) -> None:
    """Give trackers that show pictures the frames of each validation clip, and all of them what changed."""
    accelerator = run.trainer.accelerator
    if not accelerator.trackers:
        return
    validations = run.validations()
    if len(validations) > 1:
        accelerator.log({"what changed": what_changed(validations[0], validations[-1])}, step=found.step)
    for tracker in accelerator.trackers:
        if not hasattr(tracker, "log_images"):
            continue
        for clip in found.clips:
            frames = read_video(run.folder.folder / clip["file"]).frames
            named = {f"validation/{clip['prompt']} {clip['seed']}": frames}
            tracker.log_images(named, step=found.step, **LAYOUT.get(tracker.name, {}))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
