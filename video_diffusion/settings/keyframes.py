"""Values that belong to frames of a clip, steps of its run, or blocks of the U-Net."""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, PlainSerializer

from video_diffusion.settings.field_rules import check_path, check_text

Value = TypeVar("Value")

MAX_KEYFRAMES = 1000
WHOLE = {"frame": "clip", "step": "run"}
_FRAME = re.compile(r"-?\d{1,4}")
_SHARE = re.compile(r"0?\.\d{1,9}|0\.|1\.0{0,9}")


def keyframe_pairs(
    value: object, check: Callable[[Any], Value], unit: str = "frame"
) -> tuple[tuple[str, Value], ...]:
    """A map from frames to values as pairs of text and value, in the order given; pairs stay pairs."""
    pairs: Sequence[Any]
    if isinstance(value, Mapping):
        pairs = tuple(value.items())
    elif isinstance(value, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        pairs = tuple(value)
    else:
        raise ValueError(f"must be a map from {unit}s to values, such as {{0: one, 12: another}}")
    if len(pairs) > MAX_KEYFRAMES:
        raise ValueError(f"must be at most {MAX_KEYFRAMES} {unit}s, not {len(pairs)}")
    for frame, _ in pairs:
        text = str(frame)
        if isinstance(frame, bool) or not (_FRAME.fullmatch(text) or _SHARE.fullmatch(text)):
            raise ValueError(
                f"has the {unit} {text[:40]!r}; a {unit} is a number such as 12, counted from the end "
                f"such as -1, or a share of the {WHOLE[unit]} such as 0.5"
            )
    checked = []
    for frame, item in pairs:
        try:
            checked.append((str(frame), check(item)))
        except ValueError as error:
            raise ValueError(f"at {unit} {frame} {error}") from None
    return tuple(checked)


def keyframe_text(value: object) -> str:
    """The text of one frame."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    return check_text(value)


def keyframe_path(value: object) -> str:
    """The file of one frame."""
    if not isinstance(value, str):
        raise ValueError("must be a path")
    return str(check_path(value))


def keyframe_number(value: object, highest: float) -> float:
    """The number of one frame."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= highest:
        return float(value)
    raise ValueError(f"must be a number from 0 to {highest:g}")


def _numbers(highest: float, unit: str = "frame") -> BeforeValidator:
    return BeforeValidator(
        lambda value: keyframe_pairs(value, lambda item: keyframe_number(item, highest), unit)
    )


TextKeyframes: TypeAlias = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(lambda value: keyframe_pairs(value, keyframe_text)),
    PlainSerializer(dict),
]
"""Frames and their texts. A frame is a whole number from 0, one from the end (-1 is the last frame), or a
share of the clip with a point (0.5 is the middle, 1.0 the last frame)."""

FileKeyframes: TypeAlias = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(lambda value: keyframe_pairs(value, keyframe_path)),
    PlainSerializer(dict),
]
"""Frames as in `TextKeyframes` and the files for them."""

GuidanceKeyframes: TypeAlias = Annotated[tuple[tuple[str, float], ...], _numbers(50.0), PlainSerializer(dict)]
"""Frames as in `TextKeyframes` and their guidance scales."""

MotionKeyframes: TypeAlias = Annotated[tuple[tuple[str, float], ...], _numbers(10.0), PlainSerializer(dict)]
"""Frames as in `TextKeyframes` and their motion scales or effects."""

GuidanceSteps: TypeAlias = Annotated[
    tuple[tuple[str, float], ...], _numbers(50.0, "step"), PlainSerializer(dict)
]
"""Steps of a run, counted as frames are in `TextKeyframes`, and their guidance scales."""

MotionSteps: TypeAlias = Annotated[
    tuple[tuple[str, float], ...], _numbers(10.0, "step"), PlainSerializer(dict)
]
"""Likewise, and their motion scales or effects."""


def place_keyframes(
    name: str,
    keyframes: Sequence[tuple[str, Value]],
    num_frames: int,
    first: Value | None = None,
    unit: str = "frame",
) -> list[tuple[float, Value]]:
    """Sort values by the frame they stand for in a clip of known length.

    Args:
        name: of the setting, for messages.
        keyframes: frames as text, and values.
        num_frames: of the clip.
        first: holds at frame 0 if no keyframe does; None is nothing.
        unit: "frame", or "step" for the steps of a run.

    Raises:
        ValueError: a frame outside the clip, or two values for one frame.
    """
    placed: dict[Fraction, tuple[str, Value]] = {}
    for text, value in keyframes:
        frame = place_frame(text, num_frames)
        if not 0 <= frame <= num_frames - 1:
            raise ValueError(
                f"{name} names {unit} {text}, but the {WHOLE[unit]} has {num_frames} {unit}s; "
                f"name one of 0…{num_frames - 1}, or count from the end with -1…-{num_frames}"
            )
        if frame in placed:
            raise ValueError(
                f"{name} names one of {num_frames} {unit}s twice, as {placed[frame][0]} and {text}; drop one"
            )
        placed[frame] = (text, value)
    if first is not None:
        placed.setdefault(Fraction(0), ("0", first))
    return [(float(frame), value) for frame, (_, value) in sorted(placed.items())]


def whole_frames(name: str, keyframes: Sequence[tuple[str, Value]], num_frames: int) -> dict[int, Value]:
    """Values by frame number, each at the frame nearest to where it stands; as `place_keyframes`.

    Raises:
        ValueError: a frame outside the clip, or two values for one frame.
    """
    placed: dict[int, Value] = {}
    for place, value in place_keyframes(name, keyframes, num_frames):
        frame = int(place + 0.5)
        if frame in placed:
            raise ValueError(f"{name} names frame {frame} of {num_frames} frames twice; drop one")
        placed[frame] = value
    return placed


def blends_between(
    frames: Sequence[float], num_frames: int, looped: bool = False
) -> list[tuple[int, int, float]]:
    """For each frame of a clip, the keyframe before it, the one after it, and how far it is between them.

    Args:
        frames: of the keyframes, in order, each once.
        num_frames: of the clip.
        looped: whether the first keyframe comes after the last one, around the end of the clip; otherwise
            frames outside the keyframes belong to the nearest one.

    Returns:
        Index, index and share for each frame; the share is 0 at a keyframe and below 1.
    """
    last, blends = len(frames) - 1, []
    for frame in range(num_frames):
        before = bisect_right(frames, frame) - 1
        if looped and last > 0 and before in {-1, last}:
            start = frames[last] if before == last else frames[last] - num_frames
            span = frames[0] + num_frames - frames[last]
            blends.append((last, 0, (frame - start) / span))
        elif before in {-1, last}:
            blends.append((max(before, 0), max(before, 0), 0.0))
        else:
            span = frames[before + 1] - frames[before]
            blends.append((before, before + 1, (frame - frames[before]) / span))
    return blends


def along_frames(
    keyframes: Sequence[tuple[float, float]], num_frames: int, looped: bool = False
) -> list[float]:
    """Numbers for every frame, in straight lines between keyframes; see `blends_between`."""
    numbers = [number for _, number in keyframes]
    blends = blends_between([frame for frame, _ in keyframes], num_frames, looped)
    return [numbers[a] + share * (numbers[b] - numbers[a]) for a, b, share in blends]


def earliest(keyframes: object) -> str | None:
    """The text that comes first in a clip of any usual length; None if there is none or they are wrong."""
    try:
        pairs = keyframe_pairs(keyframes, keyframe_text)
    except ValueError:
        return None
    return min(pairs, key=lambda pair: place_frame(pair[0], 10_000))[1] if pairs else None


def place_frame(text: str, num_frames: int) -> Fraction:
    """The frame that a text stands for; it may lie outside the clip, or between two frames."""
    if "." in text:
        return Fraction(text) * (num_frames - 1)
    return Fraction(int(text) if not text.startswith("-") else num_frames + int(text))


# Pictures that belong to frames of a clip: "0-7: a.png", "8-15: b.png".


_FRAME_OR_SHARE = r"-?\d{1,4}|0?\.\d{1,9}|0\.|1\.0{0,9}"
FRAMES = re.compile(rf"({_FRAME_OR_SHARE})(?:-({_FRAME_OR_SHARE}))?")
WHOLE_CLIP = "0"  # a picture holds on both sides of its frames, so that of one frame alone holds everywhere


def check_image_ranges(value: object) -> tuple[tuple[str, str], ...]:
    """Pairs of frames and the picture's path, from a map; from one path a picture for the whole clip."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]  # a cell of a table
    if isinstance(value, str):
        value = {WHOLE_CLIP: value}
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in value
    ):
        raise ValueError("must be a picture, or a map from frames to pictures such as {0-7: a.png}")
    if len(value) > MAX_KEYFRAMES:
        raise ValueError(f"must be at most {MAX_KEYFRAMES} pictures, not {len(value)}")
    for frames, path in value:
        if isinstance(frames, bool) or not FRAMES.fullmatch(str(frames)):
            raise ValueError(
                f"has the frames {str(frames)[:40]!r}; write a range such as 0-7, a frame such as 12 or -1 "
                "(the last), or shares of the clip such as 0.5-1.0"
            )
        if not isinstance(path, str):
            raise ValueError(f"at frames {frames} must be a path")
        check_path(path)
    return tuple((str(frames), path) for frames, path in value)


ImageRanges: TypeAlias = Annotated[
    tuple[tuple[str, str], ...], BeforeValidator(check_image_ranges), PlainSerializer(dict)
]
"""Frames and the picture that holds there. Frames are one, or a range with both ends, each written as in
`TextKeyframes`. Before the first and after the last picture these two hold; between two a frame gets some of
both."""


def place_images(name: str, images: Sequence[tuple[str, str]], num_frames: int) -> list[tuple[float, str]]:
    """Keyframes of pictures in a clip of known length, in order: two for a range, at its ends.

    Args:
        name: of the setting, for messages.
        images: see `ImageRanges`.
        num_frames: of the clip.

    Raises:
        ValueError: frames outside the clip, a range that runs backwards, or two that overlap.
    """
    ranges = []
    for text, path in images:
        found = FRAMES.fullmatch(text)
        assert found is not None  # the settings were checked
        start = place_frame(found[1], num_frames)
        end = start if found[2] is None else place_frame(found[2], num_frames)
        if not (0 <= start <= num_frames - 1 and 0 <= end <= num_frames - 1):
            raise ValueError(
                f"{name} names frames {text}, but the clip has {num_frames} frames; "
                f"name some of 0…{num_frames - 1}, or count from the end with -1…-{num_frames}"
            )
        if end < start:
            raise ValueError(f"{name} names frames {text}, which run backwards; write the first one first")
        ranges.append((start, end, text, path))
    ranges.sort()
    for (_, end, before, _), (start, _, after, _) in pairwise(ranges):
        if start <= end:
            raise ValueError(
                f"{name} names one of {num_frames} frames twice, in {before} and {after}; shorten one"
            )
    keyframes = []
    for start, end, _, path in ranges:
        keyframes += [(float(frame), path) for frame in dict.fromkeys((start, end))]
    return keyframes


# Factors for the temporal layers of single blocks of the U-Net.


_BLOCK = re.compile(r"mid|(down|up)(\.\d)?")
HIGHEST = 10.0


def block_factors(value: object) -> tuple[tuple[str, float], ...]:
    """A map from blocks to factors as pairs, in the order given; pairs stay pairs."""
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError("must be a map from blocks to factors, such as {down: 0.8, mid: 1.2}")
    factors: dict[str, float] = {}
    for block, factor in pairs:
        if not isinstance(block, str) or not _BLOCK.fullmatch(block):
            raise ValueError(f"has the block {str(block)[:40]!r}; a block is down, mid, up, down.0, up.1, …")
        if block in factors:
            raise ValueError(f"names the block {block} twice; drop one")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor <= HIGHEST:
            raise ValueError(f"at block {block} must be a number from 0 to {HIGHEST:g}")
        factors[block] = float(factor)
    return tuple(factors.items())


BlockFactors: TypeAlias = Annotated[
    tuple[tuple[str, float], ...], BeforeValidator(block_factors), PlainSerializer(dict)
]
"""Blocks and their factors: down, mid and up, or one of them such as down.0, counted from the input; the
closer name wins."""
