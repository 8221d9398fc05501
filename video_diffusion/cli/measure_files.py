"""One clip file measured in constant memory, with the weights it needs, in any process."""

import heapq
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from video_diffusion.metrics import (
    ALL_METRICS,
    MOTION_FEATURES,
    ConsistencyReport,
    Measurement,
    Metric,
    choose_metrics,
)
from video_diffusion.metrics.flow import FlowMethod, choose_flow
from video_diffusion.metrics.measurement import as_window_starts, idle_cores
from video_diffusion.metrics.morph import morphing
from video_diffusion.metrics.shots import HeldFrames
from video_diffusion.video import (
    PALETTE_NOTE,
    Frame,
    FrameSource,
    ReadLimits,
    RecordError,
    RunRecord,
    VideoReadError,
    open_video,
    read_record,
)

if TYPE_CHECKING:
    from video_diffusion.metrics.learned.encoders import ImageEncoder
    from video_diffusion.metrics.views import Triple


@dataclass(frozen=True)
class Weights:
    """Local weights for further metrics; None leaves each of them out.

    Attributes:
        clip_model: folder, for CLIP consistency and prompt alignment.
        prompt: what the clips should show; None asks each clip's own record.
        dino_model: folder, for subject consistency.
        lpips_weights: file, for LPIPS along the flow.
        raft_weights: file; RAFT then takes the place of the named flow.
    """

    clip_model: str | None = None
    prompt: str | None = None
    dino_model: str | None = None
    lpips_weights: str | None = None
    raft_weights: str | None = None

    def metrics(self, own_prompt: str | None = None) -> tuple[Metric, ...]:
        """Return the lines of the metrics that have weights."""
        lines: tuple[Metric, ...] = ()
        if self.clip_model:
            from video_diffusion.metrics.learned import clip_metrics

            lines += clip_metrics(_clip(self.clip_model), self.prompt or own_prompt)
        if self.dino_model:
            lines += _dino(self.dino_model)
        if self.lpips_weights:
            lines += _lpips(self.lpips_weights)
        return lines

    def flow(self, name: str) -> FlowMethod:
        """Return RAFT if it has weights, else the flow of that name."""
        return _raft(self.raft_weights) if self.raft_weights else choose_flow(name)


@lru_cache(maxsize=1)
def _clip(folder: str) -> "ImageEncoder":
    from video_diffusion.metrics.learned.encoders import load_clip

    return load_clip(folder)


@lru_cache(maxsize=1)
def _dino(folder: str) -> tuple[Metric, ...]:
    from video_diffusion.metrics.learned import dino_metrics

    return dino_metrics(folder)


@lru_cache(maxsize=1)
def _lpips(weights: str) -> tuple[Metric, ...]:
    from video_diffusion.metrics.learned import lpips_metrics

    return lpips_metrics(weights)


@lru_cache(maxsize=1)
def _raft(weights: str) -> FlowMethod:
    from video_diffusion.metrics.learned.along_flow import RaftFlow

    return RaftFlow(weights)


LIMITS = ReadLimits(max_frames=2_000_000)
"""Frames are not kept, so hours are welcome."""

NUM_THUMBNAILS = 12
Crop: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class Request:
    """What to measure of each clip.

    Attributes:
        metrics: names, None for all.
        flow: "dis" or "farneback".
        fps: of a folder of images.
        allow_truncated: measure what a damaged file still gives.
        sample: so many evenly spaced triples instead of every frame; None for every frame.
        window_starts: first frames of the context windows.
        worst: so many triples to keep pictures of.
        worst_by: "flicker" or "morph".
        thumbnails: whether to keep small pictures along the clip.
        motion_features: whether to take the numbers for the distance of sets.
        crop: x, y, width and height of the part to measure, such as one clip of a grid; None for all.
        tone_map: show HDR as SDR instead of refusing it.
        one_shot: the clip is known to have no cut, as every clip with a record of ours is.
        threads: pairs that are looked at at the same time; None for as many as there are cores.
        keep_series: whether the report has the values of every frame.
        weights: for the metrics that need some.
    """

    metrics: tuple[str, ...] | None = None
    flow: str = "dis"
    fps: Fraction | None = None
    allow_truncated: bool = False
    sample: int | None = None
    window_starts: tuple[int, ...] = ()
    worst: int = 0
    worst_by: Literal["flicker", "morph"] = "flicker"
    thumbnails: bool = False
    motion_features: bool = False
    crop: Crop | None = None
    tone_map: bool = False
    one_shot: bool = False
    threads: int | None = None
    keep_series: bool = True
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True, order=True)
class WorstTriple:
    """Three frames, and where they flicker and morph.

    Attributes:
        level: what they are the worst by.
        index: number of the middle frame.
        numbers: of all three.
        frames: as they are.
        residual: what motion does not explain of the middle one, in levels per pixel.
        morph: how far its points go to and fro, in px at 256, 0 where there is none.
        flicker, morph_level: means of these.
    """

    level: float
    index: int
    numbers: tuple[int, ...] = field(compare=False)
    frames: tuple[np.ndarray, ...] = field(compare=False)
    residual: np.ndarray = field(compare=False)
    morph: np.ndarray = field(compare=False)
    flicker: float = field(compare=False)
    morph_level: float = field(compare=False)


@dataclass(frozen=True, eq=False)
class MeasuredClip:
    """What came of one clip: a report or an error.

    Attributes:
        path: as the user wrote it.
        report: None when the clip could not be measured.
        error: one line, empty when there is a report.
        notes: what was applied, ignored or assumed while reading.
        sampled: triples that were asked for, None when every frame was measured.
        prompt: from the clip's own record, empty without one.
        before_encoding: value and series by metric from the clip's own record, empty without one.
        worst: the worst triples, worst first.
        thumbnails: frame number → small picture.
    """

    path: str
    report: ConsistencyReport | None = None
    error: str = ""
    notes: tuple[str, ...] = ()
    sampled: int | None = None
    prompt: str = ""
    before_encoding: dict[str, float | None] = field(default_factory=dict)
    worst: tuple[WorstTriple, ...] = ()
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)


def measure_file(
    path: str, request: Request, on_frame: Callable[[int, int | None], None] | None = None
) -> MeasuredClip:
    """Measure a video file, an animation or a folder of images."""
    try:
        with _opened(path, request) as source:
            held, num_frames = _held_frames(_cropped(source.frames, path, request.crop))
        with _opened(path, request) as source:
            return _measure_source(path, source, request, held, num_frames, on_frame)
    except (VideoReadError, MemoryError) as error:
        line = str(error) or f"{path}: needs more memory than there is"
        return MeasuredClip(path, error=line)


def _opened(path: str, request: Request) -> AbstractContextManager[FrameSource]:
    return open_video(
        path,
        fps=request.fps,
        limits=LIMITS,
        allow_truncated=request.allow_truncated,
        tone_map=request.tone_map,
    )


def _cropped(frames: Iterator[Frame], path: str, crop: Crop | None) -> Iterator[Frame]:
    """The frames, or a part of each."""
    for frame in frames:
        if crop is None:
            yield frame
            continue
        x, y, width, height = crop
        here = frame.pixels.shape
        if x + width > here[1] or y + height > here[0]:
            asked = ",".join(map(str, crop))
            raise VideoReadError(f"{path}: is {here[1]}x{here[0]}; --crop {asked} reaches beyond it")
        yield replace(frame, pixels=np.ascontiguousarray(frame.pixels[y : y + height, x : x + width]))


def _held_frames(frames: Iterator[Frame]) -> tuple[frozenset[int], int]:
    """Which frames repeat the one before, and how many there are: one reading without flow."""
    held, num_frames = HeldFrames(), 0
    for frame in frames:
        held.add(frame.pixels)
        num_frames += 1
    return held.numbers(), num_frames


def _measure_source(
    path: str,
    source: FrameSource,
    request: Request,
    held: frozenset[int],
    num_frames: int,
    on_frame: Callable[[int, int | None], None] | None,
) -> MeasuredClip:
    if num_frames < 2:
        raise VideoReadError(f"{path}: has 1 frame; needs at least 2 to measure how they hold together")
    if request.window_starts and request.window_starts[-1] >= num_frames:
        raise VideoReadError(
            f"{path}: has {num_frames} frames; --window-starts {request.window_starts[-1]} is not one"
        )
    wanted = _sampled_frames(num_frames, held, request.sample)
    record = _record(path)
    learned = request.weights.metrics(None if record is None else record.settings.prompt)
    named = ALL_METRICS if request.metrics is None else request.metrics
    worst, thumbnails = (
        _Worst(request.worst, request.worst_by),
        _Thumbnails(NUM_THUMBNAILS if request.thumbnails else 0),
    )
    measurement = Measurement(
        choose_metrics([*named, *learned, *([MOTION_FEATURES] if request.motion_features else [])]),
        request.weights.flow(request.flow),
        as_window_starts(request.window_starts),
        held=held,
        one_shot=request.one_shot or record is not None,
        threads=request.threads or idle_cores(),
        on_triple=worst.add if request.worst else None,
    )
    for frame in _cropped(source.frames, path, request.crop):
        thumbnails.add(frame.index, frame.pixels)
        if wanted is None or frame.index in wanted:
            measurement.add(frame.index, float(frame.time), frame.pixels)
        if on_frame is not None:
            on_frame(frame.index + 1, num_frames)
    if wanted is None and not measurement.evenly_spaced:
        source.note("variable frame rate; timestamps are the file's own")
    report = measurement.report(source.fps or Fraction(8), num_frames, request.keep_series)
    if report.held_frames:
        source.note(report.held_note())
    undithered = report.values["flicker"].details.get("undithered") if "flicker" in report.values else None
    if PALETTE_NOTE in source.notes and undithered is not None:
        source.note(
            f"flicker without the pattern of the palette: {undithered:.3g} levels (detail undithered)"
        )
    return MeasuredClip(
        path=path,
        report=report,
        notes=tuple(source.notes),
        sampled=request.sample if wanted is not None else None,
        prompt="" if record is None else record.settings.prompt or "",
        before_encoding={}
        if record is None
        else {name: each.value for name, each in record.measures.items()},
        worst=worst.of(report),
        thumbnails=thumbnails.pictures,
    )


def _sampled_frames(num_frames: int, held: frozenset[int], sample: int | None) -> frozenset[int] | None:
    """Frames of evenly spaced triples of distinct frames, with the held ones between, None for all."""
    distinct = [index for index in range(num_frames) if index not in held]
    if sample is None or 3 * sample >= len(distinct):
        return None
    centres = np.linspace(1, len(distinct) - 2, sample).round().astype(int)
    spans = [range(distinct[centre - 1], distinct[centre + 1] + 1) for centre in centres]
    return frozenset(index for span in spans for index in span)


def _record(path: str) -> RunRecord | None:
    """The clip's own record, None without one."""
    try:
        return read_record(path)
    except (RecordError, OSError, ValueError):
        return None


class _Worst:
    """Keeps the worst triples by flicker or morph; some in reserve, since those across a cut do not count."""

    def __init__(self, count: int, by: str):
        self._count = count
        self._by = by
        self._heap: list[WorstTriple] = []

    def add(self, triple: "Triple") -> None:
        flicker, found = triple.residual.level, morphing(triple.points)
        level, index = found.level if self._by == "morph" else flicker, triple.centre.index
        room = 3 * self._count + 8
        if not np.isfinite(level) or (len(self._heap) == room and level <= self._heap[0].level):
            return
        views = (triple.before.first, triple.centre, triple.after.second)
        kept = WorstTriple(
            level=level,
            index=index,
            numbers=tuple(view.index for view in views),
            frames=tuple(view.rgb for view in views),
            residual=triple.residual.magnitude,
            morph=found.map,
            flicker=flicker,
            morph_level=found.level,
        )
        (heapq.heappush if len(self._heap) < room else heapq.heappushpop)(self._heap, kept)

    def of(self, report: ConsistencyReport) -> tuple[WorstTriple, ...]:
        if not self._count:
            return ()
        series = dict(zip(report.frame_numbers, report.values[self._by].series, strict=False))
        scored = [triple for triple in self._heap if series.get(triple.index) is not None]
        return tuple(sorted(scored, reverse=True)[: self._count])


class _Thumbnails:
    """Keeps up to twice `count` small pictures, evenly spaced along a clip of unknown length."""

    def __init__(self, count: int):
        self._count = count
        self._step = 1
        self.pictures: dict[int, np.ndarray] = {}

    def add(self, index: int, pixels: np.ndarray) -> None:
        if not self._count or index % self._step:
            return
        shrink = max(1, max(pixels.shape[:2]) // 160)
        self.pictures[index] = np.ascontiguousarray(pixels[::shrink, ::shrink])
        if len(self.pictures) > 2 * self._count:
            self._step *= 2
            self.pictures = {
                kept: picture for kept, picture in self.pictures.items() if kept % self._step == 0
            }
