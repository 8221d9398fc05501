"""How clips are cut to the length, rate and size of training; which are held out."""

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from video_diffusion.training.data.manifest import ClipEntry
from video_diffusion.training.data.shards import ClipFile, clip_file
from video_diffusion.video import VideoReadError

TooShort = Literal["reject", "loop", "shorten"]
Windows = Literal["one", "all"]
Size = tuple[int, int]
ON_TIME = 0.005  # seconds
FEWEST_FRAMES = 4  # of a clip that is shorter than the others
FPS_SLACK = Fraction(101, 100)  # 23.976 may be sampled at 24: one frame in a thousand repeats
_FUZZ = 1e-5  # seconds; the manifest keeps microseconds


@dataclass(frozen=True)
class PlannedClip:
    """Where the window of a training clip may lie, and the size it is brought to.

    Attributes:
        entry: the row it is cut from.
        segment: number of this stretch of the entry, from 0; always 0 where an entry gives one clip.
        first, last: earliest and latest start of the window, seconds of the file.
        size: width and height of the frames that training sees.
        num_frames: of the window: fewer than asked for where the entry is shorter and is not left out for it.
        looped: the entry is shorter than the window and starts over at its end.
    """

    entry: ClipEntry
    segment: int
    first: float
    last: float
    size: Size
    num_frames: int
    looped: bool = False


@dataclass(frozen=True)
class Unusable:
    """A row that these settings cannot use, and why."""

    entry: ClipEntry
    reason: str


@dataclass(frozen=True)
class ClipPlan:
    """What a manifest gives under one choice of settings.

    Attributes:
        clips: one item each in every epoch.
        pictures: everything that a one-frame clip can be taken from: pictures, and videos at a random time.
        unusable: the rest, with a reason each; pictures are usable only as pictures and are not listed.
    """

    clips: tuple[PlannedClip, ...]
    pictures: tuple[PlannedClip, ...]
    unusable: tuple[Unusable, ...]


def plan_clips(
    entries: Sequence[ClipEntry],
    *,
    num_frames: int,
    fps: Fraction,
    sizes: Sequence[Size] | None,
    too_short: TooShort = "reject",
    windows: Windows = "one",
    repeat_frames: bool = False,
    allow_upscaling: bool = False,
) -> ClipPlan:
    """Plans the clips of an epoch; `ClipDataset` reads exactly these, and `data check` counts them."""
    _check(num_frames, fps, sizes)
    counts = _shorter(num_frames) if too_short == "shorten" else [num_frames]
    clips: list[PlannedClip] = []
    pictures: list[PlannedClip] = []
    unusable: list[Unusable] = []
    for entry in entries:
        size = nearest_size(entry, sizes)
        frame = entry.end - entry.start if entry.fps is None else float(1 / entry.fps)
        reason = None if allow_upscaling else _too_small(entry, size)
        if reason is None:
            pictures.append(PlannedClip(entry, 0, entry.start, entry.end - frame, size, 1))
        if entry.is_picture and reason is None:
            continue
        if reason is None and not repeat_frames:
            reason = _too_slow(entry, fps)
        rooms = {count: entry.end - frame - entry.start - float((count - 1) / fps) for count in counts}
        length = next((count for count in counts if rooms[count] >= -_FUZZ), None)
        if reason is None and length is None and too_short != "loop":
            reason = _too_short(entry, counts[-1], fps)
        if reason is not None:
            unusable.append(Unusable(entry, reason))
        elif length is None:
            clips.append(PlannedClip(entry, 0, entry.start, entry.start, size, num_frames, looped=True))
        else:
            clips.extend(_segments(entry, max(rooms[length], 0.0), length, fps, windows, size))
    return ClipPlan(tuple(clips), tuple(pictures), tuple(unusable))


def _shorter(num_frames: int) -> list[int]:
    """The lengths that clips too short for the first may have: its halves, down to four frames."""
    found = [num_frames]
    while found[-1] // 2 >= FEWEST_FRAMES:
        found.append(found[-1] // 2)
    return found


def num_starts(clip: PlannedClip, starts: int | None) -> int:
    """At how many places a window may start: frames of the file, or as many of them as `starts` allows."""
    places = int((clip.last - clip.first + _FUZZ) * float(clip.entry.fps or 1)) + 1
    return places if starts is None else min(places, starts)


def sample_times(
    clip: PlannedClip, num_frames: int, fps: Fraction, position: float, starts: int | None = None
) -> tuple[float, ...]:
    """When the frames of a training clip are shown, in seconds of its file.

    `position` in [0, 1) chooses where the window starts; `starts` places, evenly spread, are all there are.
    """
    rate, places = float(clip.entry.fps or 1), num_starts(clip, None)
    count = num_starts(clip, starts)
    place = min(int(position * count), count - 1)
    if count < places:
        place = round(place * (places - 1) / (count - 1)) if count > 1 else 0
    start = clip.first + place / rate
    times = [start + float(index / fps) for index in range(num_frames)]
    if clip.looped:
        length = clip.entry.end - clip.entry.start
        times = [clip.entry.start + (time - clip.entry.start + _FUZZ) % length - _FUZZ for time in times]
    return tuple(round(max(time, 0.0), 6) for time in times)


def nearest_size(entry: ClipEntry, sizes: Sequence[Size] | None) -> Size:
    """The size whose aspect is nearest to the clip's, so that the least is cropped; its own if None."""
    if not sizes:
        return entry.width, entry.height
    aspect = entry.width / entry.height
    return min(sizes, key=lambda size: (round(abs(math.log(size[0] / size[1] / aspect)), 9), size))


def aspect_buckets(size: Size, multiple: int = 64, widest: float = 2.0) -> tuple[Size, ...]:
    """Sizes of about the same area, upright to wide, for clips of mixed aspects."""
    if size[0] % multiple or size[1] % multiple or min(size) < multiple:
        raise ValueError(f"size must be multiples of {multiple} (given {size[0]}x{size[1]}); choose others")
    area = size[0] * size[1]
    found = {size}
    for width in range(multiple, int(math.sqrt(area * widest)) + multiple, multiple):
        height = max(multiple, int(area / width / multiple + 0.5) * multiple)
        if 1 / widest <= width / height <= widest:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def _check(num_frames: int, fps: Fraction, sizes: Sequence[Size] | None) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1 (given {num_frames}); 16 is usual")
    if fps <= 0:
        raise ValueError(f"fps must be above 0 (given {fps}); 8 is usual")
    for width, height in sizes or ():
        if min(width, height) < 1:
            raise ValueError(f"sizes must be at least 1x1 (given {width}x{height})")


def _segments(
    entry: ClipEntry, room: float, num_frames: int, fps: Fraction, windows: Windows, size: Size
) -> list[PlannedClip]:
    """Stretches of equal length, each with room for a window; all windows start on whole frames."""
    if windows == "one" or entry.fps is None:
        return [PlannedClip(entry, 0, entry.start, entry.start + room, size, num_frames)]
    rate = float(entry.fps)
    places = int((room + _FUZZ) * rate)  # a window may start at frames 0 to places
    window = float(num_frames / fps) * rate  # in frames of the file
    count = 1 + int((places + _FUZZ * rate) / window)
    step = (places + window) / count
    found = []
    for index in range(count):
        first = min(math.ceil(index * step - _FUZZ * rate), places)
        last = max(first, min(int(index * step + step - window + _FUZZ * rate), places))
        start, end = entry.start + first / rate, entry.start + last / rate
        found.append(PlannedClip(entry, index, start, end, size, num_frames))
    return found


def _too_small(entry: ClipEntry, size: Size) -> str | None:
    if entry.width >= size[0] and entry.height >= size[1]:
        return None
    return (
        f"is {entry.width}x{entry.height}, smaller than {size[0]}x{size[1]}; "
        "train at a smaller size or allow upscaling"
    )


def _too_slow(entry: ClipEntry, fps: Fraction) -> str | None:
    if entry.fps is None or entry.fps * FPS_SLACK >= fps:
        return None
    return (
        f"has {float(entry.fps):.5g} fps, below {float(fps):.5g}: frames would repeat; "
        "train at a lower fps or allow repeated frames"
    )


def _too_short(entry: ClipEntry, num_frames: int, fps: Fraction) -> str:
    frame = 0.0 if entry.fps is None else float(1 / entry.fps)
    return (
        f"lasts {entry.end - entry.start:.3f} s, shorter than {num_frames} frames at {float(fps):.5g} fps "
        f"({float((num_frames - 1) / fps) + frame:.3f} s); train on fewer frames or a higher fps, or loop "
        "short clips"
    )


# Which clips of a folder training never sees, so that its loss can be measured on them.


MAX_HELD_OUT = 16
HELD_OUT_SHARE = 16  # one in so many, up to the number above


def held_out_ids(plan: ClipPlan, num_held_out: int | None) -> frozenset[str]:
    """Which clips are kept apart: by the hash of their ids, whatever their order.

    Training leaves out, besides, whatever comes from the same file as one of them, or from a copy of it.
    """
    usable = {clip.entry.id for clip in plan.clips}
    wanted = min(len(usable) // HELD_OUT_SHARE, MAX_HELD_OUT) if num_held_out is None else num_held_out
    if wanted and wanted >= len(usable):
        raise ValueError(
            f"clips.held_out is {wanted}, but a folder has {len(usable)} clips that can be used; "
            "hold fewer out"
        )
    order = sorted(usable, key=lambda name: hashlib.sha256(name.encode()).digest())
    return frozenset(order[:wanted])


# Frames of a file at given times, brought to a size.


WORTH_A_JUMP = 5.0  # seconds; earlier frames are reached by reading on


def frames_at(path: Path, times: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frame on show at each of some times, in their order; decoding stops after the last."""
    wanted, clip = sorted(set(times)), clip_file(path)
    found = None
    if wanted[0] > WORTH_A_JUMP:
        with suppress(VideoReadError):  # then it is read from its beginning
            found = _frames(clip, wanted, Fraction(wanted[0]))
    found = found or _frames(clip, wanted, None)
    assert found is not None, "only a jump can miss"
    return [found[time] for time in times]


def _frames(
    clip: ClipFile, wanted: list[float], near: Fraction | None
) -> dict[float, UInt8[np.ndarray, "h w 3"]] | None:
    """The frame at each time; None if a jump to `near` went too far or back to the beginning."""
    found: dict[float, UInt8[np.ndarray, "h w 3"]] = {}
    # `data check` has decided what may be cut off; the file is the one that it saw.
    with clip.open(allow_truncated=True, near=near) as source:
        shown = None
        for number, frame in enumerate(source.frames):
            if near is not None and number == 1 and not 0 < float(frame.time) <= wanted[0] + ON_TIME:
                return None
            while shown is not None and len(found) < len(wanted):
                time = wanted[len(found)]
                if float(frame.time) <= time + ON_TIME:
                    break
                found[time] = shown
            if len(found) == len(wanted):
                break
            shown = frame.pixels
        assert shown is not None, "a source has a first frame"
        if near is not None and number == 0:
            return None
        for time in wanted[len(found) :]:
            found[time] = shown
    return found
