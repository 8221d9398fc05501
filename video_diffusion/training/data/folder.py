"""A folder of clips: what it claims, checked by decoding every clip once."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from video_diffusion.settings import ConfigError, parse_json, read_bytes, shown
from video_diffusion.training.data.lists import (
    LIST_SUFFIXES,
    MISSING_CAPTION,
    OWN_FILES,
    Candidate,
    CaptionError,
    ListRow,
    Reject,
    caption_in,
    checked_caption,
    column_names,
    files_in,
    is_picture,
    is_video,
    linked_folders,
    plain_path,
    published_clips,
    read_caption,
    read_list,
    settle,
    stem,
)
from video_diffusion.training.data.manifest import ClipEntry, write_manifest
from video_diffusion.training.data.probe import Probe, ProbeRun, Task
from video_diffusion.training.data.shards import (
    COMPRESSED,
    ShardError,
    TarSample,
    clip_file,
    table_rows,
    tar_samples,
    video_column,
)
from video_diffusion.video import atomic_path

FORMATS = ("pairs", "metadata", "webvid", "openvid", "panda70m", "cogvideo", "webdataset", "parquet")
SHARDS = {".tar": "webdataset", ".parquet": "parquet"}
_METADATA = tuple(f"metadata{suffix}" for suffix in LIST_SUFFIXES)
COGVIDEO_LINES = (
    ("videos.txt", "prompts.txt"),
    ("videos.txt", "prompt.txt"),
)  # CogVideo: line i belongs to line i
_COLUMNS = {
    "metadata": ({"file_name"}, ("text", "caption")),
    "webvid": ({"videoid", "name"}, ("name",)),
    "openvid": ({"video", "caption"}, ("caption",)),
    "panda70m": ({"videoID", "timestamp", "caption"}, ("caption",)),
}


@dataclass(frozen=True)
class Source:
    """Which of the formats a folder has, and the list file, if it has one."""

    format: str
    list_file: Path | None = None


def find_source(root: Path, wanted: str = "auto", list_file: Path | None = None) -> Source:
    """Finds out where the captions of a folder are."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise ConfigError(f"{root}: {what}; name a folder of clips")
    if list_file is None and (shards := _shards(root, wanted)):
        return shards
    if list_file is None and wanted not in {"pairs", "cogvideo"}:
        tables = [
            path
            for path in sorted(root.iterdir())
            if path.suffix.lower() in LIST_SUFFIXES and path.name not in OWN_FILES
            if not path.name.startswith(".") and (path.name in _METADATA or _format_of(path))
        ]
        tables = [path for path in tables if wanted in {"auto", _format_of(path)} or path.name in _METADATA]
        if len(tables) > 1:
            names = ", ".join(path.name for path in tables[:4])
            raise ConfigError(f"{root}: holds several lists ({names}); choose one with --list")
        list_file = tables[0] if tables else None
    if list_file is not None:
        if wanted == "cogvideo":
            raise ConfigError(f"{list_file}: cogvideo has no table; its videos.txt and prompts.txt are found")
        return Source(_check_columns(list_file, wanted), list_file)
    if wanted in {"auto", "cogvideo"}:
        for videos, _ in COGVIDEO_LINES:
            if any((root / prompts).is_file() for _, prompts in COGVIDEO_LINES) and (root / videos).is_file():
                return Source("cogvideo", root / videos)
        if (root / "labels").is_dir() and (root / "videos").is_dir():
            return Source("cogvideo")
    if wanted not in {"auto", "pairs"}:
        raise ConfigError(f"{root}: no list of {wanted} in it; name it with --list")
    return Source("pairs")


def _shards(root: Path, wanted: str) -> Source | None:
    """Shards, if that is what a folder holds."""
    if wanted not in {"auto", *SHARDS.values()}:
        return None
    kinds = {kind for _, kind in shards_in(root) if wanted in {"auto", kind}}
    if len(kinds) > 1 or (kinds and wanted == "auto" and any(map(is_video, files_in(root)))):
        raise ConfigError(
            f"{root}: holds shards ({' and '.join(sorted(kinds))}) and other clips; choose with --format"
        )
    if not kinds and wanted != "auto":
        raise ConfigError(f"{root}: holds no shards of {wanted}; name another folder, or --format")
    return Source(kinds.pop()) if kinds else None


def _check_columns(path: Path, wanted: str) -> str:
    found = column_names(path)
    if wanted == "auto":
        wanted = "metadata" if path.name in _METADATA and "file_name" in found else _format_of(path)
    if wanted and wanted != "pairs":
        needed, captions = _COLUMNS[wanted]
        if needed <= set(found) and set(captions) & set(found):
            return wanted
    ways = "; ".join(f"{kind}: {', '.join(sorted(needed))}" for kind, (needed, _) in _COLUMNS.items())
    raise ConfigError(f"{path}: its columns are {shown(found)}; a list needs those of one format ({ways})")


def _format_of(path: Path) -> str:
    """The format whose columns a table has, or nothing; the most particular first."""
    if path.suffix.lower() == ".parquet" and video_column(path):
        return ""  # a shard
    try:
        found = set(column_names(path))
    except ConfigError:
        return ""
    for kind in ("panda70m", "webvid", "metadata", "openvid"):
        needed, captions = _COLUMNS[kind]
        if needed <= found and found & set(captions):
            return kind
    return ""


# Clips as a folder claims them: text files beside them, a metadata table, or CogVideo's lists.


@dataclass
class Claims:
    """What a source claims.

    Attributes:
        source: format and list.
        candidates: one for each clip, in the order of the source; read once.
        num_absent: rows of a published list whose videos are not here; complete after reading.
        num_pictures: pictures without a caption of their own, such as thumbnails; likewise.
        captionless: videos without a caption are taken too.
    """

    source: Source
    candidates: Iterator[Candidate]
    captionless: bool = False
    num_absent: int = 0
    num_pictures: int = 0


def read_claims(root: Path, source: Source, captionless: bool = False) -> Claims:
    """The clips that a source names, and what lies in the folder without being named."""
    claims = Claims(source, iter(()), captionless)
    readers: dict[str, Callable[[Path, Claims], Iterator[Candidate]]] = {
        "pairs": _pairs,
        "metadata": _metadata,
        "cogvideo": _cogvideo,
        "webdataset": _webdataset,
        "parquet": _parquet,
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
    yield from _with_text_beside(claims, root, sorted(clips | captioned), names, lambda name: f"{name}.txt")
    stems = {stem(name) for name in clips | captioned}
    for name in sorted(names):
        alone = name.endswith(".txt") and stem(name) not in stems
        if alone and not re.match(r"readme|licen[cs]e|notice|changelog", PurePosixPath(name).name, re.I):
            yield Candidate(name, None, name, problem="is a caption without a clip beside it")


def _with_text_beside(
    claims: Claims, root: Path, clips: list[str], names: set[str], text_of: Callable[[str], str]
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
        elif text not in names and claims.captionless:
            yield Candidate(name, "", name)
        elif text not in names:
            problem = f"has no caption: no {text}; --captionless takes it without"
            yield Candidate(name, None, name, problem=problem)
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
        named.add(plain_path(root, name))
        caption = row.values.get("text") if row.values.get("text") is not None else row.values.get("caption")
        if claims.captionless and caption in {None, ""}:
            yield Candidate(plain_path(root, name), "", row.where)
            continue
        yield row.candidate(plain_path(root, name), caption)
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
            claims, root, clips, names, lambda name: f"labels{name.removeprefix('videos')}.txt"
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
        plain = plain_path(root, name.strip())
        named.add(plain)
        try:
            yield Candidate(plain, checked_caption(text), where)
        except CaptionError as error:
            yield Candidate(plain, None, where, problem=f"its caption in {where} {error}")
    for name in files_in(root):
        if is_video(name) and name not in named:
            yield Candidate(name, None, "videos.txt", problem="no line of videos.txt names it")


def shards_in(root: Path) -> Iterator[tuple[str, str]]:
    """Each tar file, and each Parquet file with videos in it, of a folder, and the format it is of."""
    for name in files_in(root):
        kind = SHARDS.get(PurePosixPath(name).suffix.lower())
        if kind and (kind == "webdataset" or video_column(root / name)):
            yield name, kind


def _webdataset(root: Path, claims: Claims) -> Iterator[Candidate]:
    """Samples of tar files: a video or picture, and its caption as .txt, or as caption or text in .json."""
    for name in files_in(root):
        if name.lower().endswith(COMPRESSED):
            problem = "is a compressed shard, which has no places to read from; decompress it"
            yield Candidate(name, None, name, problem=problem)
    for name in (name for name, kind in shards_in(root) if kind == "webdataset"):
        try:
            for sample in tar_samples(root / name):
                yield _of_sample(root, name, sample, claims)
        except ShardError as error:
            yield Candidate(name, None, name, problem=str(error))


def _of_sample(root: Path, shard: str, sample: TarSample, claims: Claims) -> Candidate:
    videos = [member for member in sample.members.values() if is_video(member)]
    clips = videos or [member for member in sample.members.values() if is_picture(member)]
    where = f"{shard}/{sample.key}"
    if sample.problem or len(clips) != 1:
        problem = f"holds {len(clips)} videos ({', '.join(sample.members)}); a sample needs one"
        path = f"{shard}/{clips[0]}" if len(clips) == 1 else where
        return Candidate(path, None, where, problem=sample.problem or problem)
    path = f"{shard}/{clips[0]}"
    text = next((sample.members[kind] for kind in ("txt", "json") if kind in sample.members), None)
    where = where if text is None else f"{shard}/{text}"
    problem = "has no caption: no .txt, no .json with caption or text; --captionless takes it without"
    try:
        if text is not None:
            return Candidate(path, _caption_of(clip_file(root / where).read(), where), where)
    except CaptionError as error:
        problem = f"its caption {where} {error}"
        text = None if str(error) == MISSING_CAPTION else text
    return (
        Candidate(path, "", where)
        if text is None and claims.captionless
        else Candidate(path, None, where, problem=problem)
    )


def _caption_of(content: bytes, name: str) -> str:
    """The caption in a member of a sample."""
    if not name.endswith(".json"):
        return caption_in(content)
    try:
        return checked_caption(_first(parse_json(content, strict=False), ("caption", "text")))
    except (RecursionError, TypeError, ValueError) as error:
        if isinstance(error, CaptionError):
            raise
        raise CaptionError("is not JSON with a caption") from None


def _first(values: Any, names: Iterable[str]) -> Any:
    if not isinstance(values, dict):
        raise TypeError("not an object")
    return next((values[name] for name in names if values.get(name) is not None), None)


def _parquet(root: Path, claims: Claims) -> Iterator[Candidate]:
    """Rows of Parquet files with a video's bytes and, as caption, text or prompt, its caption."""
    for name in (name for name, kind in shards_in(root) if kind == "parquet"):
        try:
            for number, values in enumerate(table_rows(root / name)):
                path = f"{name}/{number}"
                caption = _first(values, ("caption", "text", "prompt"))
                if caption is None and claims.captionless:
                    yield Candidate(path, "", path)
                else:
                    yield ListRow(path).candidate(path, caption)
        except ShardError as error:
            yield Candidate(name, None, name, problem=str(error))


def _text_lines(path: Path) -> list[str]:
    """All lines, empty ones too; only the end of the last one is no line of its own."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(
            f"{path}: not UTF-8 (byte 0x{byte:02x} at {error.start}); save it as UTF-8"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


# The check of a folder: every clip decoded once, then a manifest of the good and a list of the bad.


REJECTS_FILE = "rejects.jsonl"


@dataclass
class FolderCheck:
    """A check in progress, and its result once all steps have been taken.

    Attributes:
        root: the folder.
        source: where its captions are.
        entries: what the manifest holds, in the order of the source.
        rejects: the rest, with a reason each.
        notes: how often each remark was made about a file that was taken.
        num_files: that were decoded or known.
        num_decoded: of these, in this run.
        num_absent: rows of a published list whose videos are not in the folder.
        num_pictures: pictures without captions, which are left alone.
    """

    root: Path
    source: Source
    entries: list[ClipEntry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    num_files: int = 0
    num_decoded: int = 0
    num_absent: int = 0
    num_pictures: int = 0

    def steps(
        self, num_workers: int, allow_truncated: bool = False, captionless: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Does the work, yielding (files done, files in all); writes manifest and rejects at the end."""
        claims = read_claims(self.root, self.source, captionless)
        candidates, self.rejects = settle(self.root, claims.candidates)
        self.rejects += linked_folders(self.root)
        self.num_absent, self.num_pictures = claims.num_absent, claims.num_pictures
        tasks = _tasks(candidates, allow_truncated)
        run, found = ProbeRun(self.root, num_workers), {}
        self.num_files = len(tasks)
        for done, (task, result) in enumerate(run.results(tasks), start=1):
            found[task.path] = (task, result)
            yield done, len(tasks)
        self.num_decoded = run.num_decoded
        for candidate in candidates:
            self._judge(candidate, *found[candidate.path])
        for _, result in found.values():
            if not result.problem:
                self.notes.update(result.notes)
        self._write()

    def _judge(self, candidate: Candidate, task: Task, result: Probe) -> None:
        problem = result.problem
        if not problem:
            number = task.stretches.index(_stretch_of(candidate))
            stretch = result.stretches[number] if result.fps is not None else result.stretches[0]
            problem = stretch.problem
        if problem:
            self.rejects.append(Reject(candidate.path, candidate.where, problem))
            return
        assert candidate.caption is not None, "a candidate without a caption has a problem"
        self.entries.append(
            ClipEntry(
                id=candidate.id,
                path=candidate.path,
                sha256=result.sha256,
                num_frames=stretch.num_frames,
                fps=result.fps,
                width=result.width,
                height=result.height,
                caption=candidate.caption,
                start=stretch.start,
                end=stretch.end,
                num_bytes=result.num_bytes,
                mtime_ns=result.mtime_ns,
            )
        )

    def _write(self) -> None:
        with atomic_path(self.root / REJECTS_FILE) as part, part.open("w", encoding="utf-8") as rows:
            for reject in self.rejects:
                rows.write(json.dumps(asdict(reject)) + "\n")
        write_manifest(self.root, self.entries)


def _tasks(candidates: list[Candidate], allow_truncated: bool) -> list[Task]:
    """One task for each file, however many stretches of it are clips."""
    stretches: dict[str, list[tuple[float, float] | None]] = {}
    for candidate in candidates:
        stretches.setdefault(candidate.path, []).append(_stretch_of(candidate))
    return [Task(path, tuple(dict.fromkeys(own)), allow_truncated) for path, own in stretches.items()]


def _stretch_of(candidate: Candidate) -> tuple[float, float] | None:
    if candidate.start is None or candidate.end is None:
        return None
    return candidate.start, candidate.end
