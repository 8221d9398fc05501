"""Clips as somebody claims them: a file, its caption and where both were written, before any is opened."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from video_diffusion.config import shown


@dataclass(frozen=True)
class Candidate:
    """One clip as its source names it; caption and file are one record and never part.

    Attributes:
        path: of the file, relative to the folder, with "/".
        caption: checked; None where `problem` says why.
        where: the place of the claim: a list's line, or the caption's file.
        start, end: seconds of a stretch of the file; None for all of it.
        stretch: number of the stretch, None for a whole file.
        problem: why it cannot be a clip; empty if nothing is known against it.
        id: given by `settle`: the path without its suffix, and the number of the stretch.
    """

    path: str
    caption: str | None
    where: str
    start: float | None = None
    end: float | None = None
    stretch: int | None = None
    problem: str = ""
    id: str = ""


@dataclass(frozen=True)
class Reject:
    """A clip, caption or row that cannot be used, and why; `path` is as its source gives it."""

    path: str
    where: str
    reason: str


def settle(root: Path, candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Reject]]:
    """Parts the candidates that may be decoded from those that may not.

    Refused are addresses, paths and links that leave the folder, missing files, captions that are none, and
    whatever two candidates claim: where it cannot be known which caption is meant, neither is taken.
    """
    inside = root.resolve()
    kept: list[Candidate] = []
    rejects: list[Reject] = []
    names: dict[Path, dict[str, str]] = {}
    for candidate in candidates:
        unreadable = _leaves(candidate.path) or _unreachable(root, inside, candidate.path, names)
        is_row = candidate.path == candidate.where and candidate.problem  # it names no file at all
        reason = candidate.problem if is_row else unreadable or candidate.problem
        if reason:
            rejects.append(Reject(candidate.path, candidate.where, reason))
        else:
            kept.append(candidate)
    return _named(_without_rivals(kept, rejects)), rejects


def plain_path(name: str) -> str:
    """A path as this folder's files are written, without ./ and doubled /; what is none stays as it is."""
    return name if _leaves(name) else PurePosixPath(name).as_posix()


def _leaves(name: str) -> str:
    """Why a name is not a plain relative path, or nothing."""
    parts = PurePosixPath(name).parts
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8; rename it"
    if "://" in name or name.startswith(("data:", "concat:", "pipe:")):
        return "is an address; only files in the folder are read, download it first"
    if not name.strip() or "\0" in name or not parts:
        return f"is not a file name (given {shown(name, 40)})"
    if PurePosixPath(name).is_absolute() or "\\" in name or name[1:3] in {":/", ":\\"}:
        return "is not a path relative to the folder, written with /"
    if ".." in parts:
        return "leaves the folder (..)"
    return ""


def _unreachable(root: Path, inside: Path, name: str, names: dict[Path, dict[str, str]]) -> str:
    """Why there is no such file in the folder, or nothing."""
    path = root / name
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(inside):
            return "is a link that leaves the folder"
        if not real.is_file():
            return "is not a regular file"
    except RuntimeError:
        return "is a link to itself"
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            return f"cannot be reached ({os.strerror(error.errno or 0)})"
        twin = _names_in(path.parent, names).get(_folded(path.name))
        return f"no such file{f'; there is {shown(twin)}, whose case differs' if twin else ''}"
    return ""


def _names_in(folder: Path, known: dict[Path, dict[str, str]]) -> dict[str, str]:
    """The names in a folder by their folded form, listed once."""
    if folder not in known:
        found = folder.iterdir() if folder.is_dir() else ()
        known[folder] = {_folded(path.name): path.name for path in found}
    return known[folder]


def _without_rivals(kept: list[Candidate], rejects: list[Reject]) -> list[Candidate]:
    """Takes out what two candidates claim."""
    claims: dict[tuple[str, int | None], list[Candidate]] = {}
    for candidate in kept:
        claims.setdefault((_folded(candidate.path), candidate.stretch), []).append(candidate)
    single: list[Candidate] = []
    for rivals in claims.values():
        single += rivals if len(rivals) == 1 else []
        if len(rivals) == 1:
            continue
        same_file = len({rival.path for rival in rivals}) == 1
        if same_file and len({rival.caption for rival in rivals}) == 1:
            single.append(rivals[0])
            reason = f"is named in {rivals[0].where} already, with the same caption"
            rejects += [Reject(rival.path, rival.where, reason) for rival in rivals[1:]]
            continue
        for rival in rivals:
            other = next(one for one in rivals if one is not rival)
            reason = (
                f"has another caption in {other.where}; keep one"
                if same_file
                else f"differs from {shown(other.path)} only in upper and lower case or accents; rename one"
            )
            rejects.append(Reject(rival.path, rival.where, reason))
    return single


def _named(candidates: list[Candidate]) -> list[Candidate]:
    """Gives ids: without suffixes, but where two files of a list share a stem, with them."""
    stems = Counter((_folded(_stem(one.path)), one.stretch) for one in candidates)
    named = []
    for one in candidates:
        alone = stems[_folded(_stem(one.path)), one.stretch] == 1
        name = _stem(one.path) if alone else one.path
        named.append(replace(one, id=name if one.stretch is None else f"{name}#{one.stretch}"))
    return named


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _folded(name: str) -> str:
    """The name as a file system sees it that knows neither case nor ways to write an accent."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
