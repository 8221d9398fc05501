"""A clip once its frames are there: measures and record, and the encoding of all three."""

import base64
import html
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from video_diffusion.metrics import ConsistencyReport, measure
from video_diffusion.settings import ResolvedSettings, shown
from video_diffusion.video import (
    MeasuredValue,
    ModelIdentity,
    RunRecord,
    frames_sha256,
    record_beside,
    write_video,
)

if TYPE_CHECKING:
    from PIL import Image

    from video_diffusion.sampling import DenoisingStep

OnFrame = Callable[[str, int, int], None]
"""Told after each frame the stage ("decode" or "measure"), how many frames are done, and of how many."""


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class GeneratedVideo:
    """A finished clip with its measures, before it is encoded.

    Attributes:
        frames: RGB, as they go to the encoder; the very frames that were measured.
        settings: With nothing left open.
        report: How well the frames hold together.
        run_record: What is written beside the clip and into it.
        latents: That the frames were decoded from, `1 c f h w` on the CPU; None where they were not kept.

    >>> from video_diffusion import TextToVideoPipeline
    >>> pipeline = TextToVideoPipeline.from_pretrained("embedded", device="cpu")
    >>> video = pipeline("a red circle", frames=2, steps=1, progress=False)
    >>> video.frames.dtype, [image.size for image in video.images]
    (dtype('uint8'), [(64, 64), (64, 64)])
    """

    frames: UInt8[np.ndarray, "f h w c"]
    settings: ResolvedSettings
    report: ConsistencyReport
    run_record: RunRecord
    latents: Float[Tensor, "1 _ _ _ _"] | None = None

    def __repr__(self) -> str:
        own, flicker = self.settings, self.report.values["flicker"]
        measured = "" if flicker.value is None else f", flicker {flicker.value:.2f} {flicker.unit}"
        return (
            f"<GeneratedVideo {shown(own.prompt, 40)}: {len(self.frames)} frames of {own.width}x{own.height} "
            f"at {float(own.fps):g} fps, seed {own.seed}{measured}>"
        )

    def _repr_html_(self) -> str:
        """The clip, playing, and its measures."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write_video(path, self.frames, self.settings.fps, None)
            data = base64.b64encode(path.read_bytes()).decode()
        own = self.settings
        width = max(own.width, min(256, own.width * 4))
        return (
            f'<figure><video src="data:video/mp4;base64,{data}" width="{width}" controls autoplay loop muted '
            f"playsinline></video><figcaption>{html.escape(own.prompt)}, seed {own.seed}</figcaption>"
            "</figure>"
            f"{self.report._repr_html_()}"
        )

    @property
    def images(self) -> "list[Image.Image]":
        """The frames as PIL's images."""
        from PIL import Image  # noqa: PLC0415  only who asks for them needs it

        return [Image.fromarray(frame) for frame in self.frames]

    @property
    def record(self) -> dict[str, Any]:
        """The run record as plain JSON values."""
        return self.run_record.to_dict()

    @property
    def frames_sha256(self) -> str:
        """Equal exactly when the frames are."""
        return self.run_record.frames_sha256

    def save(self, path: Path | str, *, embed_metadata: bool = True, **encoding: Any) -> None:
        """Write the clip, and its record as JSON beside it.

        Args:
            path: Its suffix chooses the format, see `io.write_video`.
            embed_metadata: Whether the record goes into the file too.
            encoding: `codec`, `crf`, `pixel_format` and `overwrite` of `io.write_video`.

        Raises:
            ValueError, OSError, VideoWriteError: As `io.write_video`; nothing is left at the path then.
        """
        metadata = self.run_record.tags() if embed_metadata else None
        with record_beside(path, self.run_record, encoding.get("overwrite", True)) as record:
            # An old record must not describe a new clip, wherever the program is killed.
            forget = partial(record.unlink, missing_ok=True)
            write_video(path, self.frames, self.settings.fps, metadata, before_naming=forget, **encoding)


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """A clip whose frames are made and not yet measured; what is left to do needs no model.

    Attributes:
        frames: RGB, as they go to the encoder.
        settings: With nothing left open.
        window_starts: First frames of the context windows, if there were any.
        timings: Seconds by stage so far.
        facts: What else `make_record` writes down.
        latents: That the frames were decoded from, on the CPU.
    """

    frames: UInt8[np.ndarray, "f h w c"]
    settings: ResolvedSettings
    window_starts: Sequence[int]
    timings: Mapping[str, float]
    facts: Mapping[str, Any]
    latents: Float[Tensor, "1 _ _ _ _"] | None = None

    def measured(self, on_frame: OnFrame | None = None) -> GeneratedVideo:
        """Measure the frames and write the record."""
        timings = dict(self.timings)
        with timed(timings, "measure"):
            report = measure(
                self.frames,
                self.settings.fps,
                window_starts=self.window_starts,
                on_frame=partial(on_frame, "measure") if on_frame is not None else None,
                one_shot=True,
            )
        record = make_record(
            self.frames,
            self.settings,
            report,
            timings=timings,
            window_starts=self.window_starts,
            **self.facts,
        )
        return GeneratedVideo(self.frames, self.settings, report, record, self.latents)


@contextmanager
def progress_bars(
    shown_at_all: bool, on_step: "Callable[[DenoisingStep], None] | None", on_frame: OnFrame | None
) -> "Iterator[tuple[Callable[[DenoisingStep], None] | None, OnFrame | None]]":
    """Show bars of steps and frames, as tqdm draws them in a notebook or a terminal, and tell others too."""
    if not shown_at_all:
        yield on_step, on_frame
        return
    from tqdm.auto import tqdm  # noqa: PLC0415  only Python callers see bars

    bars: dict[str, Any] = {}

    def count(what: str, done: int, total: int) -> None:
        bar = bars.get(what)
        if bar is None or done <= bar.n:
            for other in bars.values():
                other.close()
            bar = bars[what] = tqdm(total=total, desc=what)
        bar.update(done - bar.n)

    def step_done(step: "DenoisingStep") -> None:
        count("denoise", step.index, step.num_steps)
        if on_step is not None:
            on_step(step)

    def frame_done(stage: str, done: int, total: int) -> None:
        count(stage, done, total)
        if on_frame is not None:
            on_frame(stage, done, total)

    try:
        yield step_done, frame_done
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def timed(timings: dict[str, float], stage: str, num_clips: int = 1) -> Iterator[None]:
    """Note how many seconds a stage takes per clip."""
    started = time.perf_counter()
    yield
    timings[stage] = (time.perf_counter() - started) / num_clips


def make_record(
    frames: UInt8[np.ndarray, "f h w c"],
    settings: ResolvedSettings,
    report: ConsistencyReport,
    *,
    model: ModelIdentity,
    timings: Mapping[str, float],
    device: str,
    num_threads: int,
    window_starts: Sequence[int] = (),
    inputs: Mapping[str, str] | None = None,
    noise_sha256: str | None = None,
    batch_size: int = 1,
    accelerated: bool = False,
    low_memory: bool = False,
) -> RunRecord:
    """Write down what made a clip."""
    hashes = {name: value for name, value in model.model_dump().items() if name.endswith("sha256")}
    hashes |= {name: value for name, value in (inputs or {}).items() if name.endswith("_embeds")}
    if model.motion_adapter == "none":  # temporal layers switched off have no weights to be hashed
        hashes["motion_adapter"] = "none"
    return RunRecord(
        settings=settings.recorded(),
        model=model,
        job_id=settings.job_id(hashes),
        frames_sha256=frames_sha256(frames),
        noise_sha256=noise_sha256,
        measures={
            name: MeasuredValue(
                value=measured.value,
                unit=measured.unit,
                status=measured.status,
                series=list(measured.series) or None,
            )
            for name, measured in report.values.items()
        },
        window_starts=list(window_starts),
        inputs=dict(inputs or {}),
        timings={stage: round(seconds, 3) for stage, seconds in timings.items()},
        device=device,
        num_threads=num_threads,
        batch_size=batch_size,
        accelerated=accelerated,
        low_memory=low_memory,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
