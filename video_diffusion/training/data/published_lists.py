"""Lists of published data sets: WebVid, OpenVid and Panda-70M, whose videos may lie anywhere in the folder.

Each lists the whole set, so rows without a video here are usual and only counted.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from video_diffusion.training.data.candidates import Candidate
from video_diffusion.training.data.caption_text import CaptionError, checked_caption
from video_diffusion.training.data.clip_files import files_in, is_video
from video_diffusion.training.data.list_file import ListRow, read_list

KEYS = {"webvid": "videoid", "openvid": "video", "panda70m": "videoID"}
_CAPTIONS = {"webvid": "name", "openvid": "caption"}


def published_clips(root: Path, table: Path, kind: str) -> Iterator[Candidate | None]:
    """The clips of a list; None for each row whose video is not in the folder."""
    here: dict[str, list[str]] = {}
    for name in files_in(root):
        if is_video(name):
            here.setdefault(
                PurePosixPath(name).name if kind == "openvid" else PurePosixPath(name).stem, []
            ).append(name)
    named = set()
    for row in read_list(table):
        key = row.values.get(KEYS[kind])
        if row.problem:
            yield Candidate(row.where, None, row.where, problem=row.problem)
            continue
        name = str(key)
        if "/" in name or "\\" in name or name.startswith(".."):
            yield Candidate(name, None, row.where, problem="is not the plain name of a video")
            continue
        found = here.get(name, [])
        named.update(found)
        if not found:
            yield None
        elif len(found) > 1:
            yield Candidate(found[0], None, row.where, problem=f"is one of {len(found)} files named {name}")
        elif kind == "panda70m":
            yield from _stretches(row, found[0])
        else:
            yield row.candidate(found[0], row.values.get(_CAPTIONS[kind]))
    for names in here.values():
        for name in names:
            if name not in named:
                yield Candidate(name, None, table.name, problem=f"no row of {table.name} names it")


def _stretches(row: ListRow, name: str) -> Iterator[Candidate]:
    """Panda-70M: lists of [start, end] and of captions, one caption for each stretch of a whole video."""
    try:
        times = _listed(row.values["timestamp"])
        captions = _listed(row.values["caption"])
        if len(times) != len(captions):
            raise ValueError(f"has {len(times)} timestamps, but {len(captions)} captions")
        spans = [(_seconds(start), _seconds(end)) for start, end in times]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        why = str(error) if str(error).startswith("has ") else "timestamp and caption are not two lists"
        yield Candidate(name, None, row.where, problem=why)
        return
    for number, ((start, end), text) in enumerate(zip(spans, captions, strict=True)):
        try:
            caption = checked_caption(text)
        except CaptionError as error:
            yield Candidate(name, None, row.where, start, end, number, f"caption {number} {error}")
            continue
        problem = "" if 0 <= start < end else f"stretch {number} ends before it starts"
        yield Candidate(name, caption, row.where, start, end, number, problem)


def _listed(value: Any) -> list[Any]:
    """A list, or the text of one as Python or JSON writes it."""
    if isinstance(value, str):
        value = ast.literal_eval(value)
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _seconds(text: Any) -> float:
    """0:01:02.345 in seconds."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,4}:\d{1,2}:\d{1,2}(\.\d{1,9})?", text):
        raise ValueError("not a time")
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
