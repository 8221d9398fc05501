"""One clip from checked settings: the last cheap checks, the run with its progress, what is saved of it."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from video_diffusion.cli.outputs import EncodingFlags, check_clip_fits
from video_diffusion.cli.terminal import MachineError, Progress, say, warn
from video_diffusion.jobs.job import open_settings
from video_diffusion.loading import find_ip_adapter, find_lora, parse_lora
from video_diffusion.loading.sources import SHIPPED, parse_hub_id
from video_diffusion.loading.weights import open_weights
from video_diffusion.settings import check_quantize
from video_diffusion.settings.field_rules import expanded
from video_diffusion.video import (
    CODECS,
    choose_encoding,
    codec_problem,
    is_bundled_ffmpeg,
    iter_frames,
    sidecar_path,
    working_codecs,
)
from video_diffusion.video.images import with_sources
from video_diffusion.web import counted

if TYPE_CHECKING:
    from video_diffusion.jobs import Pipelines
    from video_diffusion.pipeline import GeneratedVideo, TextToVideoPipeline
    from video_diffusion.sampling import DenoisingStep
    from video_diffusion.settings import GenerationSettings

STRIP_ROWS, STRIP_COLUMNS = 8, 8
LARGER_MODEL = (
    "a larger model knows more, such as --model stable-diffusion-v1-5/stable-diffusion-v1-5 --motion-adapter "
    "guoyww/animatediff-motion-adapter-v1-5-3 from the Hugging Face hub (about 5 GB)"
)
HERE = {*SHIPPED, "none"}
FRAMES_OF = {"decode": "decoded frame", "measure": "measured frame"}
MAX_NOTES = 100  # different ones of a run
NOISY_LIBRARIES = {"torch", "diffusers", "transformers", "huggingface_hub", "accelerate", "numpy"}


@dataclass
class Clip:
    """A finished clip, the pipeline that made it, and its steps if they were kept."""

    video: "GeneratedVideo"
    pipeline: "TextToVideoPipeline"
    steps: list["DenoisingStep"] = field(default_factory=list)


def check_before_loading(settings: "GenerationSettings", path: Path, encoding: EncodingFlags) -> list[str]:
    """What would go wrong only after minutes: size, rate, room on disk and in memory, device, precision."""
    check_codec(path, encoding)
    check_inputs(settings)
    check_quantize(settings.quantize)
    if settings.device == "mps" and sys.platform != "darwin":
        raise MachineError("--device: mps is Apple's GPU and this is not a Mac; use auto or cpu")
    if settings.device == "cpu" and settings.dtype == "float16":
        raise ValueError("--dtype: float16 on the CPU is slow and overflows; use bfloat16 or float32")
    settings = with_sources(settings)
    names = (settings.model, settings.motion_adapter or "none")
    if not all(name in HERE or Path(name).exists() for name in names):
        return []  # a model on the hub tells its sizes only when it is fetched
    likely = settings.with_defaults(open_settings(settings.model, settings.motion_adapter))
    if likely.num_frames is None or likely.width is None or likely.height is None or likely.fps is None:
        return []  # so does an image model in one file
    note = check_clip_fits(path, encoding, (likely.num_frames, likely.height, likely.width), likely.fps)
    return [note] if note else []


def show_plan(settings: "GenerationSettings", path: Path, *, as_json: bool) -> None:
    """The clip on stdout as its path (or an object), and on stderr what it will be; nothing is loaded."""
    settings = with_sources(settings)
    names = (settings.model, settings.motion_adapter or "none")
    if all(name in HERE or Path(name).exists() for name in names):
        settings = settings.with_defaults(open_settings(settings.model, settings.motion_adapter))
    asked = settings.model_dump(mode="json", exclude_none=True)
    click.echo(json.dumps({"file": str(path), "settings": asked}) if as_json else str(path))
    size = f"{settings.width}x{settings.height}" if settings.width and settings.height else None
    frames, fps, steps = settings.num_frames, settings.fps, settings.num_inference_steps
    known = {"frames": frames, "": size, "per second": fps, "steps": steps}
    told = [f"{value} {words}".rstrip() for words, value in known.items() if value is not None]
    say(" · ".join([f"1 clip with seed {settings.seed}", *told, f"by {settings.model}", "nothing is made"]))


def check_inputs(settings: "GenerationSettings") -> None:
    """Open the videos and images that the clip starts from, up to their first frame; find its adapters."""
    settings.check_image_prompt()
    settings.check_prompt_words()
    for place in (settings.model, settings.motion_adapter, *settings.networks.values()):
        if place is not None and place not in HERE and not expanded(place).exists():
            parse_hub_id(place)
    for path in settings.input_files.values():
        next(iter(iter_frames(path)))
    if settings.ip_adapter is not None and expanded(settings.ip_adapter).exists():
        find_ip_adapter(settings.ip_adapter)
    for path in settings.used_embeddings.values():
        open_weights(path)
    for entry in settings.all_loras:
        find_lora(parse_lora(entry)[0])


def check_codec(path: Path, encoding: EncodingFlags) -> None:
    """Try an encoder on two small frames where ffmpeg is not the one that comes along; else it is known."""
    if is_bundled_ffmpeg():
        return
    name = choose_encoding(path, encoding.codec).codec.name
    problem = codec_problem(name)
    if problem is not None:
        working = [CODECS[other] for other, why in working_codecs().items() if why is None]
        usable = [codec.name for codec in working if codec.max_frames is None]
        raise MachineError(f"--codec: {name} does not work here ({problem}); usable are {', '.join(usable)}")


def make_clip(
    settings: "GenerationSettings",
    *,
    show_progress: bool,
    keep_steps: bool = False,
    pipelines: "Pipelines | None" = None,
    accelerated: bool = True,
    low_memory: bool = False,
) -> Clip:
    """Loads the model, says which words it does not know, and makes the clip."""
    with warnings_as_lines(quiet=not show_progress):
        loading = Progress(quiet=not show_progress)
        loading.note(f"loading {settings.model}")
        try:
            from video_diffusion.jobs import Pipelines

            pipeline = (pipelines or Pipelines()).get(settings, low_memory, loading.bytes_read)
        finally:
            loading.clear()
        pipeline.accelerated = accelerated
        warn_of_unknown_words(" ".join(settings.all_prompts), pipeline.vocabulary)
        progress, steps = Progress(quiet=not show_progress), []

        def on_step(step: "DenoisingStep") -> None:
            progress.count("step", step.index, step.num_steps)
            if keep_steps:
                steps.append(step)

        def on_frame(stage: str, done: int, total: int) -> None:
            progress.count(FRAMES_OF[stage], done, total)

        try:
            (video,) = pipeline.generate([settings], on_step, on_frame)
        finally:
            progress.clear()
    if (video.frames == video.frames[0, 0, 0]).all():
        warn("every frame is the same flat colour; try another seed, or a guidance_scale nearer to 1")
    return Clip(video, pipeline, steps)


def use_threads(num_threads: int | None) -> None:
    """Computes with as many threads as a record says, since the last bits of a sum depend on their number."""
    import torch

    if num_threads is not None:
        torch.set_num_threads(min(num_threads, 4 * (os.cpu_count() or 1)))


def save_clip(
    video: "GeneratedVideo", path: Path, encoding: EncodingFlags, *, embed: bool, overwrite: bool
) -> None:
    """Writes the clip, then its record beside it."""
    target = f"{path}/" if encoding.codec == "png" else path
    video.save(
        target, codec=encoding.codec, crf=encoding.crf, pixel_format=encoding.pixel_format,
        embed_metadata=embed, overwrite=overwrite,
    )  # fmt: skip


def save_sheet(video: "GeneratedVideo", path: Path) -> None:
    """Writes the contact sheet with the flicker of each frame."""
    from video_diffusion.video.images import draw_contact_sheet, save_picture

    flicker = video.report.values["flicker"]
    picture = draw_contact_sheet(
        video.frames,
        video.settings.prompt,
        facts_line(video),
        curve=flicker.series,
        curve_label=f"flicker along the motion, {flicker.unit} of 255",
        full_scale=1.0,
    )
    save_picture(path, picture)


def save_strip(clip: Clip, path: Path) -> None:
    """Writes the filmstrip: some steps as rows, some frames as columns, each the clip as predicted there."""
    from video_diffusion.video.images import draw_filmstrip, evenly, save_picture

    steps = [clip.steps[index] for index in evenly(len(clip.steps), STRIP_ROWS)]
    columns = evenly(len(clip.video.frames), STRIP_COLUMNS)
    rows = [clip.pipeline.decode(step.clean_latents[:, :, columns]) for step in steps]
    labels = [f"step {step.index} of {step.num_steps}" for step in steps]
    title = clip.video.settings.prompt
    save_picture(path, draw_filmstrip(rows, labels, title, facts_line(clip.video)))


def facts_line(video: "GeneratedVideo") -> str:
    """Seed, flicker, morph, motion and shape in one line for people."""
    own, values = video.settings, video.report.values
    parts = [f"seed {own.seed}"]
    for name in ("flicker", "morph", "motion"):
        measure = values[name]
        figure = f"{measure.value:.2f} {measure.unit}" if measure.value is not None else measure.status
        parts.append(f"{name} {figure}")
    frames = counted(len(video.frames), "frame")
    parts += [f"{frames} of {own.width}x{own.height} at {own.fps} fps", f"{own.scheduler}"]
    parts += [f"{own.num_inference_steps} steps", f"guidance {own.guidance_scale:g}"]
    return " · ".join(parts)


def summary(video: "GeneratedVideo", path: Path, seconds: float) -> dict[str, Any]:
    """The object of --json."""
    own, metrics = video.settings, video.report.to_json(series=False)["metrics"]
    assert own.fps is not None
    return {
        "path": str(path),
        "record": str(sidecar_path(path)),
        "prompt": own.prompt,
        "seed": own.seed,
        "num_frames": len(video.frames),
        "height": own.height,
        "width": own.width,
        "fps": float(own.fps),
        "frames_sha256": video.frames_sha256,
        "metrics": {
            name: {key: measure[key] for key in ("value", "unit", "status")}
            for name, measure in metrics.items()
        },
        "seconds": round(seconds, 3),
    }


class _Notes(logging.Handler):
    """What this package tells besides, each line once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._told and len(self._told) < MAX_NOTES:
            self._told.add(text)
            say(text)


@contextmanager
def warnings_as_lines(quiet: bool = False) -> Iterator[None]:
    """Warnings of this package become `warning:` lines, each once; what it logs plain ones; no libraries'."""
    told: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).splitlines()[:1])
        if not NOISY_LIBRARIES & set(Path(filename).parts) and text not in told:
            told.add(text)
            warn(text)

    log, notes = logging.getLogger("video_diffusion"), _Notes()
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        if not quiet:
            log.addHandler(notes)
            log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(notes)
            log.setLevel(level)


def warn_of_unknown_words(prompt: str, vocabulary: Collection[str]) -> None:
    """Says which words of the prompt mean nothing to the model, which ones do, and where more are known."""
    from video_diffusion.text import unknown_words_note

    note = unknown_words_note(prompt, vocabulary)
    if note is not None:
        warn(f"{note}; {LARGER_MODEL}")
