"""What a video file really holds, found by decoding it; many at once, in processes."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from video_diffusion.settings import check_regular
from video_diffusion.training.data.cutting import ON_TIME
from video_diffusion.training.data.shards import clip_file
from video_diffusion.video import VideoReadError, open_video, write_bytes
from video_diffusion.video.files import interrupts_held

_CLOCK = Fraction(1, 1000)  # seconds, of Matroska and others
_SAME_RATE = Fraction(1, 500)  # a declared rate that is this close to the measured one is the exact one


@dataclass(frozen=True)
class Task:
    """A file to decode, and the stretches of it that are clips: (start, end) in seconds, None for all."""

    path: str
    stretches: tuple[tuple[float, float] | None, ...] = (None,)
    allow_truncated: bool = False


@dataclass(frozen=True)
class Stretch:
    """What a stretch truly holds; `problem` says why it is no clip."""

    num_frames: int = 0
    start: float = 0.0
    end: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Probe:
    """What a file truly is.

    Attributes:
        num_bytes, mtime_ns: before it was read.
        sha256: of all bytes; empty if it could not be read.
        fps: of its real timestamps; None for a picture.
        width, height: upright.
        stretches: one for each that was asked for.
        notes: what was applied, ignored or found odd.
        problem: why nothing in it can be used; empty if something can.
    """

    num_bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    fps: Fraction | None = None
    width: int = 0
    height: int = 0
    stretches: tuple[Stretch, ...] = ()
    notes: tuple[str, ...] = field(default=())
    problem: str = ""


def probe(root: Path, task: Task) -> Probe:
    """Decodes a whole file; every problem of the file is in the result."""
    path = root / task.path
    clip = clip_file(path)
    try:
        num_bytes, mtime_ns = clip.facts()
        content = None if clip.shard is None else clip.read()
        sha256 = clip.sha256() if content is None else hashlib.sha256(content).hexdigest()
    except OSError as error:
        return Probe(problem=f"cannot be read ({os.strerror(error.errno or 0)}); check its permissions")
    base = Probe(len(content) if content is not None else num_bytes or 0, mtime_ns, sha256)
    try:
        return _decoded(path, content, task, base)
    except VideoReadError as error:
        return replace(base, problem=str(error).removeprefix(f"{path}").lstrip(": "))
    except MemoryError:
        return replace(base, problem="needs more memory than there is; make it smaller")


def _decoded(path: Path, content: bytes | None, task: Task, base: Probe) -> Probe:
    with open_video(path, allow_truncated=task.allow_truncated, content=content) as source:
        times = [frame.time for frame in source.frames]
    notes = list(source.notes)
    found = replace(base, width=source.width, height=source.height)
    if source.fps is None and len(times) == 1:
        return replace(found, notes=tuple(notes), stretches=(Stretch(1, 0.0, 1.0),))
    problem = _wrong_times(times)
    if problem:
        return replace(base, problem=problem)
    fps = true_rate(times, source.fps, notes)
    stretches = tuple(_stretch(times, fps, wanted) for wanted in task.stretches)
    return replace(found, fps=fps, stretches=stretches, notes=tuple(notes))


def _wrong_times(times: list[Fraction]) -> str:
    if len(times) < 2:
        return "holds 1 frame; a clip needs at least 2 (a still may be given as a picture)"
    for index, (earlier, later) in enumerate(pairwise(times), start=1):
        if later <= earlier:
            return f"its times do not increase at frame {index} ({float(later):.3f} s); encode it anew"
    return ""


def true_rate(times: list[Fraction], declared: Fraction | None, notes: list[str]) -> Fraction:
    """Frames per second by the frames' real times; a note says where the file declares another rate."""
    measured = (len(times) - 1) / (times[-1] - times[0])
    steps = [later - earlier for earlier, later in pairwise(times)]
    if max(steps) - min(steps) > max(Fraction(11, 1000), min(steps) / 10):
        notes.append("variable frame rate; its frames are taken at their real times")
    if declared is not None and abs(measured - declared) <= _SAME_RATE * declared:
        return declared
    rounded = _simplest(measured, (len(times) - 1) / (times[-1] - times[0] + _CLOCK))
    if declared is not None and abs(measured - declared) > declared / 50:
        notes.append(f"declares {float(declared):.5g} fps, but has {float(rounded):.5g}")
    return rounded


def _simplest(rate: Fraction, low: Fraction) -> Fraction:
    """The simplest rate that a clock which rounds cannot tell from the measured one."""
    for denominator in range(1, 1002):
        simple = Fraction(round(rate * denominator), denominator)
        if abs(simple - rate) <= rate - low and simple > 0:
            return simple
    return rate


def _stretch(times: list[Fraction], fps: Fraction, wanted: tuple[float, float] | None) -> Stretch:
    length = 1 / fps
    if wanted is None:
        return Stretch(len(times), 0.0, round(float(times[-1] + length), 6))
    start, end = wanted
    inside = [time for time in times if start - ON_TIME <= time < end - ON_TIME]
    if start >= times[-1] + length:
        return Stretch(
            problem=f"starts at {start:.3f} s, but the video ends at {float(times[-1] + length):.3f} s"
        )
    if len(inside) < 2:
        return Stretch(problem=f"holds {len(inside)} frames from {start:.3f} s to {end:.3f} s; it needs 2")
    return Stretch(len(inside), round(float(inside[0]), 6), round(float(inside[-1] + length), 6))


# Many files decoded in processes; what is known from an earlier run is not decoded again.


KNOWN_FILE = ".data-check.jsonl"
_FORMAT = 1


class ProbeRun:
    """Probes files in order of completion and remembers each at once in the folder.

    A file is decoded again if its size differs, or its time and then also its sha256, or if other stretches
    of it are asked for.

    Args:
        root: the folder.
        num_workers: processes; 0 decodes in this one.
    """

    def __init__(self, root: Path, num_workers: int) -> None:
        self.root, self.num_workers = root, num_workers
        self._known = _read_known(root / KNOWN_FILE)
        self.num_decoded = 0

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Probe]]:
        """Every task with its result; what is known comes first."""
        fresh: list[Task] = []
        for task in tasks:
            known = self._recall(task)
            if known is None:
                fresh.append(task)
            else:
                yield task, known
        if (self.root / KNOWN_FILE).exists() and not (self.root / KNOWN_FILE).is_dir():
            check_regular(self.root / KNOWN_FILE)  # a pipe would wait for ever; a folder cannot be opened
        with (self.root / KNOWN_FILE).open("a", encoding="utf-8") as file:
            for task, found in self._decode(fresh):
                self.num_decoded += 1
                self._known[task.path] = (task, found)
                file.write(_line(task, found))
                file.flush()
                yield task, found
        wanted = {task.path for task in tasks}
        lines = [_line(*known) for path, known in sorted(self._known.items()) if path in wanted]
        write_bytes(self.root / KNOWN_FILE, "".join(lines).encode())

    def _recall(self, task: Task) -> Probe | None:
        known = self._known.get(task.path)
        if known is None or known[0] != task or not known[1].sha256:
            return None
        clip, found = clip_file(self.root / task.path), known[1]
        with suppress(OSError):
            num_bytes, mtime_ns = clip.facts()
            if num_bytes not in {None, found.num_bytes}:
                return None
            if mtime_ns == found.mtime_ns:
                return found
            if clip.sha256() == found.sha256:
                renewed = replace(found, mtime_ns=mtime_ns)
                self._known[task.path] = (task, renewed)
                return renewed
        return None

    def _decode(self, tasks: list[Task]) -> Iterator[tuple[Task, Probe]]:
        if self.num_workers == 0:
            yield from ((task, probe(self.root, task)) for task in tasks)
            return
        waiting = list(reversed(tasks))
        while waiting:
            suspects: list[Task] = []
            yield from self._in_pool(waiting, self.num_workers, suspects)
            # A decoder crashed: one of the files in work did it. Alone, each shows whether it was the one.
            for task in suspects:
                crashed: list[Task] = []
                yield from self._in_pool([task], 1, crashed)
                if crashed:
                    num_bytes, mtime_ns = clip_file(self.root / task.path).facts()
                    problem = "crashes the decoder; encode it anew"
                    yield task, Probe(num_bytes or 0, mtime_ns, problem=problem)

    def _in_pool(
        self, waiting: list[Task], num_workers: int, suspects: list[Task]
    ) -> Iterator[tuple[Task, Probe]]:
        """Takes from the end of `waiting` until all is done or a process died: `suspects` were in work."""
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(num_workers, context)
        running: dict[Future[Probe], Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * num_workers:
                    task = waiting.pop()
                    with interrupts_held():
                        running[pool.submit(probe, self.root, task)] = task
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    found = future.result()
                    yield running.pop(future), found
        except BrokenProcessPool:
            suspects.extend(running.values())
        finally:
            for process in (
                pool._processes or {}
            ).values():  # the executor has no public way to stop its work
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Row(TypedDict):
    format: Literal[1]
    task: Task
    probe: Probe


_ROW: TypeAdapter[_Row] = TypeAdapter(_Row)


def _line(task: Task, found: Probe) -> str:
    row = {"format": _FORMAT, "task": asdict(task), "probe": {**asdict(found), "fps": _text(found.fps)}}
    return json.dumps(row, allow_nan=False) + "\n"


def _text(fps: Fraction | None) -> str | None:
    return None if fps is None else str(fps)


def _read_known(file: Path) -> dict[str, tuple[Task, Probe]]:
    """What earlier runs found; a row that is none (torn by a crash, of another version) is decoded again."""
    known: dict[str, tuple[Task, Probe]] = {}
    if not file.is_file():
        return known
    with file.open("rb") as lines:
        for line in lines:
            with suppress(ValueError):
                row = _ROW.validate_json(line)
                known[row["task"].path] = (row["task"], row["probe"])
    return known
