"""One file decoded from its first frame to its last: what is truly in it, or why it is no clip."""

import os
import signal
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from video_diffusion.io import VideoReadError, open_video
from video_diffusion.training.data.clip_file import file_sha256
from video_diffusion.training.data.clip_plan import ON_TIME

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
    try:
        before = path.stat()
        sha256 = file_sha256(path)
    except OSError as error:
        return Probe(problem=f"cannot be read ({os.strerror(error.errno or 0)}); check its permissions")
    base = Probe(before.st_size, before.st_mtime_ns, sha256)
    try:
        return _decoded(path, task, base)
    except VideoReadError as error:
        return replace(base, problem=str(error).removeprefix(f"{path}").lstrip(": "))
    except MemoryError:
        return replace(base, problem="needs more memory than there is; make it smaller")


def ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the one that started the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _decoded(path: Path, task: Task, base: Probe) -> Probe:
    with open_video(path, allow_truncated=task.allow_truncated) as source:
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
