"""Clips made by any tool, compared: folders side by side, paired by name or by their own records."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from video_diffusion.comparison.alignment import ROW_KEY, PromptMeter, kinds_of
from video_diffusion.comparison.reference import clips_in
from video_diffusion.comparison.run import SERIES, as_row, clip_command, is_measured
from video_diffusion.comparison.statistics import describe_arm
from video_diffusion.comparison.summary import ClipMeasure, ClipResult
from video_diffusion.comparison.verdict import Findings
from video_diffusion.jobs import Results
from video_diffusion.metrics import measure
from video_diffusion.settings import ConfigError, shown
from video_diffusion.video import (
    SUFFIXES,
    RecordError,
    RunRecord,
    VideoReadError,
    library_versions,
    read_record,
    read_video,
)
from video_diffusion.web import counted

ASSUMED_FPS = Fraction(8)


@dataclass(frozen=True)
class FoundClip:
    """One file: which arm it belongs to, what it is paired by, and its own record if it has one."""

    arm: str
    prompt: str
    seed: int
    path: Path
    record: RunRecord | None

    @property
    def place(self) -> tuple[str, int]:
        """What pairs it with clips of other arms."""
        return self.prompt, self.seed


def parse_folders(texts: Sequence[str]) -> dict[str, Path]:
    """Arms from texts such as "A=dirA": label → folder, the first is the baseline."""
    folders: dict[str, Path] = {}
    for text in texts:
        label, equals, name = text.partition("=")
        label = label.strip()
        if not (label and equals and name):
            raise ConfigError(f"--clips: must be LABEL=FOLDER (given {shown(text)})")
        if label in folders:
            raise ConfigError(f"--clips: {label} stands twice; give each folder its own label")
        if not Path(name).is_dir():
            what = "is a file" if Path(name).exists() else "no such folder"
            raise ConfigError(f"--clips {label}: {name}: {what}; name a folder of clips")
        folders[label] = Path(name)
    if len(folders) < 2:
        raise ConfigError("--clips: a comparison needs 2 or more folders, such as --clips A=one B=two")
    return folders


def find_clips(folders: Mapping[str, Path]) -> tuple[list[FoundClip], list[str]]:
    """The clips of all folders that have a partner, and a note on those that have none.

    Clips pair by prompt and seed where every one of them carries a record of this program that tells them
    apart; else by name without suffix, and every name counts as a prompt of its own.
    """
    named = [clip for label, folder in folders.items() for clip in _named_clips(label, folder)]
    recorded = [_by_record(clip) for clip in named]
    by_record = [clip for clip in recorded if clip is not None]
    distinct = len({(clip.arm, clip.place) for clip in by_record}) == len(named)
    clips = by_record if distinct and len(by_record) == len(named) else named
    places = [{clip.place for clip in clips if clip.arm == label} for label in folders]
    common = set.union(*(places[0] & others for others in places[1:]))
    if not common:
        base, other = list(folders)[:2]
        shown_names = " and ".join(
            shown(sorted(clip.prompt for clip in clips if clip.arm == label)[0]) for label in (base, other)
        )
        raise ConfigError(
            f"--clips: no clip of {base} has a partner of the same name (such as {shown_names}); rename them"
        )
    how = "by prompt and seed, from their records" if clips is by_record else "by name, each name a prompt"
    alone = len(set().union(*places)) - len(common)
    notes = [f"Clips are paired {how}."]
    if alone:
        notes.append(f"Left out, without a partner: {counted(alone, 'name')}.")
    return [clip for clip in clips if clip.place in common], notes


READ = {"num_frames", "fps", "width", "height", "series"}
"""What is read of a clip's row besides its metrics."""


def measure_clips(
    clips: Sequence[FoundClip], folder: Path, meter: PromptMeter
) -> Iterator[tuple[FoundClip, Mapping[str, Any]]]:
    """Measure what is not measured yet; every clip ends as a row of results.jsonl, by its file's hash."""
    results = Results(folder)
    done = {
        key: row
        for key, row in results.latest().items()
        if row["status"] == "ok" and is_measured(row) and row.keys() >= READ
    }
    for clip in clips:
        with clip.path.open("rb") as file:
            key = hashlib.file_digest(file, "sha256").hexdigest()
        row = done.get(key)
        if row is None or (clip.record is not None and meter.wants(row)):
            row = {"job_id": key, **_measured(clip, meter)}
            results.append(row)
            done[key] = row
        yield clip, row


def findings(
    rows: Sequence[tuple[FoundClip, Mapping[str, Any]]], folder: Path, notes: Sequence[str],
    margins: Mapping[str, float], alpha: float, command: str, title: str = "",
) -> Findings:  # fmt: skip
    """What was measured, ready to be compared."""
    clips = [_result(clip, row, folder) for clip, row in rows]
    labels = list(dict.fromkeys(clip.arm for clip in clips))
    held = [row for _, row in rows if row.get("held_frames")]
    if held:
        told = f"Frames are held in {counted(len(held), 'clip')}"
        notes = [*notes, f"{told}; every measure is that of the distinct frames."]
    return Findings(
        title=title or " against ".join(reversed(labels)),
        command=command,
        arms=tuple(describe_arm(label, labels[0], clips, {}) for label in labels),
        axes=(),
        prompts=tuple(dict.fromkeys(clip.prompt for clip in clips)),
        seeds=tuple(dict.fromkeys(clip.seed for clip in clips)),
        clips=tuple(clips),
        margins=margins,
        alpha=alpha,
        notes=("Measured on the files as they are, after encoding, which hides some flicker.", *notes),
        kinds=kinds_of([row for _, row in rows]),
        versions=library_versions(),
    )


def _named_clips(label: str, folder: Path) -> list[FoundClip]:
    files = clips_in(folder)
    if not files:
        raise ConfigError(f"--clips {label}: {folder} holds no clip ({', '.join(SUFFIXES)})")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    twice = next((name for name, other in pairwise(sorted(names)) if name == other), None)
    if twice is not None:
        raise ConfigError(f"--clips {label}: {folder} holds two clips named {shown(twice)}; move one away")
    return [
        FoundClip(label, name.encode(errors="replace").decode(), 0, path, _record(path))
        for name, path in zip(names, files, strict=True)
    ]


def _by_record(clip: FoundClip) -> FoundClip | None:
    if clip.record is None:
        return None
    own = clip.record.settings
    return FoundClip(clip.arm, own.prompt, own.seed, clip.path, clip.record)


def _record(path: Path) -> RunRecord | None:
    try:
        return read_record(path)
    except (RecordError, VideoReadError):
        return None


def _measured(clip: FoundClip, meter: PromptMeter) -> dict[str, Any]:
    """A row without its id."""
    where = {"file": str(clip.path), "where": f"{clip.arm} · {clip.prompt[:60]}"}
    try:
        video = read_video(clip.path)
        report = measure(video.frames, video.fps or ASSUMED_FPS, one_shot=clip.record is not None)
    except ValueError as error:
        return {"status": "failed", **where, "error": f"{type(error).__name__}: {error}"}
    found = meter.measure(video.frames, clip.record.settings) if clip.record is not None else {}
    return {
        "status": "ok",
        **where,
        "bytes": clip.path.stat().st_size,
        "num_frames": report.num_frames,
        "fps": float(report.fps),
        "width": report.width,
        "height": report.height,
        "metrics": as_row(report),
        "notes": [*video.notes, *([report.held_note()] if report.held_frames else [])],
        "held_frames": report.held_frames,
        "series": {
            name: list(report.values[name].to_json()["series"])
            for name in SERIES
            if report.values[name].series
        },
        ROW_KEY: found,
    }


def _result(clip: FoundClip, row: Mapping[str, Any], folder: Path) -> ClipResult:
    failed = row["status"] == "failed"
    measured = {} if failed else {**row["metrics"], **row.get(ROW_KEY, {})}
    record = clip.record
    path = Path(os.path.relpath(clip.path, folder)).as_posix()
    settings = record.settings.model_dump(mode="json") if record is not None else {}
    return ClipResult(
        arm=clip.arm,
        prompt=clip.prompt,
        seed=clip.seed,
        path="" if failed else path,
        record="",
        error=row["error"] if failed else "",
        fps=0.0 if failed else row["fps"],
        num_frames=0 if failed else row["num_frames"],
        width=0 if failed else row["width"],
        height=0 if failed else row["height"],
        measures={name: ClipMeasure(each["value"], each["status"]) for name, each in measured.items()},
        series={} if failed else {name: tuple(values) for name, values in row["series"].items()},
        noise_sha256=(record.noise_sha256 or "") if record is not None else "",
        frames_sha256=record.frames_sha256 if record is not None else "",
        command=clip_command(settings) if settings else "",
        notes=tuple(row.get("notes", ())),
    )
