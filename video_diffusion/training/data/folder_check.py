"""The check of a folder: every clip decoded once, then a manifest of the good and a list of the bad."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from video_diffusion.io import atomic_path
from video_diffusion.training.data.candidates import Candidate, Reject, settle
from video_diffusion.training.data.claims import read_claims
from video_diffusion.training.data.clip_sources import Source
from video_diffusion.training.data.manifest import ClipEntry, write_manifest
from video_diffusion.training.data.probe import Probe, Task
from video_diffusion.training.data.probe_run import ProbeRun

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

    def steps(self, num_workers: int, allow_truncated: bool = False) -> Iterator[tuple[int, int]]:
        """Does the work, yielding (files done, files in all); writes manifest and rejects at the end.

        Args:
            num_workers: processes that decode; 0 for none but this.
            allow_truncated: takes videos that end too early, with the frames they have.

        Raises:
            ConfigError: the list file cannot be read to its end.
            OSError: the folder cannot be written to.
        """
        claims = read_claims(self.root, self.source)
        candidates, self.rejects = settle(self.root, claims.candidates)
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
