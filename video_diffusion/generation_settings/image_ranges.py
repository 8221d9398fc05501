"""Pictures that belong to frames of a clip: "0-7: a.png", "8-15: b.png"."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer

from video_diffusion.generation_settings.field_rules import check_path
from video_diffusion.generation_settings.keyframes import MAX_KEYFRAMES, place_frame

_FRAME = r"-?\d{1,4}|0?\.\d{1,9}|0\.|1\.0{0,9}"
FRAMES = re.compile(rf"({_FRAME})(?:-({_FRAME}))?")
WHOLE_CLIP = "0"  # a picture holds on both sides of its frames, so that of one frame alone holds everywhere


def check_image_ranges(value: object) -> tuple[tuple[str, str], ...]:
    """Pairs of frames and the picture's path, from a map; from one path a picture for the whole clip.

    Raises:
        ValueError: frames that are written in no known way, no path, or more than 1000 pairs.
    """
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


def check_image_prompt(settings: Any) -> None:
    """Refuse pictures without an IP-Adapter, one without pictures, and frames that the clip does not have.

    Args:
        settings: Of one clip; frames are checked if their number is known.

    Raises:
        ValueError: See above.
    """
    if settings.ip_image and settings.ip_adapter is None:
        raise ValueError("ip_image needs an IP-Adapter that reads it; set ip_adapter to its file")
    if settings.ip_adapter is not None and not settings.ip_image:
        raise ValueError("ip_adapter needs a picture to show; set ip_image to one")
    if settings.num_frames is not None:
        place_images("ip_image", settings.ip_image, settings.num_frames)
