"""Clips as a folder claims them: text files beside them, a metadata table, or CogVideo's lists."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from video_diffusion.config import ConfigError, shown
from video_diffusion.training.data.candidates import Candidate, plain_path
from video_diffusion.training.data.caption_text import CaptionError, checked_caption, read_caption
from video_diffusion.training.data.clip_files import files_in, is_picture, is_video, stem
from video_diffusion.training.data.clip_sources import COGVIDEO_LINES, Source
from video_diffusion.training.data.list_file import read_list
from video_diffusion.training.data.published_lists import published_clips


@dataclass
class Claims:
    """What a source claims.

    Attributes:
        source: format and list.
        candidates: one for each clip, in the order of the source; read once.
        num_absent: rows of a published list whose videos are not here; complete after reading.
        num_pictures: pictures without a caption of their own, such as thumbnails; likewise.
    """

    source: Source
    candidates: Iterator[Candidate]
    num_absent: int = 0
    num_pictures: int = 0


def read_claims(root: Path, source: Source) -> Claims:
    """The clips that a source names, and what lies in the folder without being named."""
    claims = Claims(source, iter(()))
    readers: dict[str, Callable[[Path, Claims], Iterator[Candidate]]] = {
        "pairs": _pairs,
        "metadata": _metadata,
        "cogvideo": _cogvideo,
    }
    claims.candidates = readers.get(source.format, _published)(root, claims)
    return claims


def _pairs(root: Path, claims: Claims) -> Iterator[Candidate]:
    """`name.txt` beside `name.mp4`; a picture counts if no video has its name."""
    names = set(files_in(root))
    clips = {name for name in names if is_video(name)}
    videos = {stem(name) for name in clips}
    pictures = {name for name in names if is_picture(name)}
    captioned = {name for name in pictures if f"{stem(name)}.txt" in names and stem(name) not in videos}
    claims.num_pictures = len(pictures) - len(captioned)
    yield from _with_text_beside(root, sorted(clips | captioned), names, lambda name: f"{name}.txt")
    stems = {stem(name) for name in clips | captioned}
    for name in sorted(names):
        alone = name.endswith(".txt") and stem(name) not in stems
        if alone and not re.match(r"readme|licen[cs]e|notice|changelog", PurePosixPath(name).name, re.I):
            yield Candidate(name, None, name, problem="is a caption without a clip beside it")


def _with_text_beside(
    root: Path, clips: list[str], names: set[str], text_of: Callable[[str], str]
) -> Iterator[Candidate]:
    sharing: dict[str, list[str]] = {}
    for name in clips:
        sharing.setdefault(stem(name), []).append(name)
    for name in clips:
        text = text_of(stem(name))
        others = [other for other in sharing[stem(name)] if other != name]
        if others:
            problem = f"shares the caption {text} with {others[0]}; one caption belongs to one clip"
            yield Candidate(name, None, text, problem=problem)
        elif text not in names:
            yield Candidate(name, None, name, problem=f"has no caption: no {text}")
        else:
            yield _read(root, name, text)


def _read(root: Path, name: str, text: str) -> Candidate:
    if not (root / text).resolve().is_relative_to(root.resolve()):
        return Candidate(name, None, text, problem=f"its caption {text} is a link that leaves the folder")
    try:
        return Candidate(name, read_caption(root / text), text)
    except CaptionError as error:
        return Candidate(name, None, text, problem=f"its caption {text} {error}")


def _metadata(root: Path, claims: Claims) -> Iterator[Candidate]:
    """`file_name` and `text` (or `caption`), as in data sets of the Hugging Face hub."""
    table = claims.source.list_file
    assert table is not None, "this format has a list"
    named = set()
    for row in read_list(table):
        name = row.values.get("file_name")
        if row.problem or not isinstance(name, str):
            problem = row.problem or f"file_name is not a text (given {shown(name, 40)})"
            yield Candidate(row.where, None, row.where, problem=problem)
            continue
        named.add(plain_path(name))
        caption = row.values.get("text") if row.values.get("text") is not None else row.values.get("caption")
        yield row.candidate(plain_path(name), caption)
    for name in files_in(root):
        if is_video(name) and name not in named:
            yield Candidate(name, None, table.name, problem=f"no row of {table.name} names it")
        claims.num_pictures += is_picture(name) and name not in named


def _published(root: Path, claims: Claims) -> Iterator[Candidate]:
    table = claims.source.list_file
    assert table is not None, "this format has a list"
    for candidate in published_clips(root, table, claims.source.format):
        if candidate is None:
            claims.num_absent += 1
        else:
            yield candidate


def _cogvideo(root: Path, claims: Claims) -> Iterator[Candidate]:
    """`videos.txt` with `prompts.txt`, line for line; or `labels/name.txt` for `videos/name.mp4`."""
    if claims.source.list_file is None:
        names = set(files_in(root))
        clips = sorted(name for name in names if name.startswith("videos/") and is_video(name))
        yield from _with_text_beside(
            root, clips, names, lambda name: f"labels{name.removeprefix('videos')}.txt"
        )
        videos = {stem(name).removeprefix("videos/") for name in clips}
        for name in sorted(names):
            if re.fullmatch(r"labels/.*\.txt", name) and stem(name).removeprefix("labels/") not in videos:
                yield Candidate(name, None, name, problem="is a caption without a clip in videos/")
        return
    prompts = next(root / text for _, text in COGVIDEO_LINES if (root / text).is_file())
    videos_list, lines = _text_lines(claims.source.list_file), _text_lines(prompts)
    if len(videos_list) != len(lines):
        raise ConfigError(
            f"{prompts}: has {len(lines)} lines, but {claims.source.list_file.name} has {len(videos_list)}, "
            "and line i belongs to line i: nothing can be matched; find the line that is missing"
        )
    named = set()
    for number, (name, text) in enumerate(zip(videos_list, lines, strict=True), start=1):
        where = f"{prompts.name}:{number}"
        plain = plain_path(name.strip())
        named.add(plain)
        try:
            yield Candidate(plain, checked_caption(text), where)
        except CaptionError as error:
            yield Candidate(plain, None, where, problem=f"its caption in {where} {error}")
    for name in files_in(root):
        if is_video(name) and name not in named:
            yield Candidate(name, None, "videos.txt", problem="no line of videos.txt names it")


def _text_lines(path: Path) -> list[str]:
    """All lines, empty ones too; only the end of the last one is no line of its own."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(
            f"{path}: not UTF-8 (byte 0x{byte:02x} at {error.start}); save it as UTF-8"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
