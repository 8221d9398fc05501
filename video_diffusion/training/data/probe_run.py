"""Many files decoded in processes; what is known from an earlier run is not decoded again."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from video_diffusion.io import write_bytes
from video_diffusion.training.data.clip_file import file_sha256
from video_diffusion.training.data.probe import Probe, Stretch, Task, ignore_interrupts, probe

KNOWN_FILE = ".data-check.jsonl"
_FORMAT = 1


class ProbeRun:
    """Probes files in order of completion and remembers each at once in the folder.

    A file is decoded again if its size differs, or its time and then also its sha256, or if other stretches
    of it are asked for.

    Args:
        root: the folder.
        num_workers: processes; 0 decodes in this one.
    """

    def __init__(self, root: Path, num_workers: int) -> None:
        self.root, self.num_workers = root, num_workers
        self._known = _read_known(root / KNOWN_FILE)
        self.num_decoded = 0

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Probe]]:
        """Every task with its result; what is known comes first.

        Raises:
            OSError: the folder cannot be written to.
        """
        fresh: list[Task] = []
        for task in tasks:
            known = self._recall(task)
            if known is None:
                fresh.append(task)
            else:
                yield task, known
        with (self.root / KNOWN_FILE).open("a", encoding="utf-8") as file:
            for task, found in self._decode(fresh):
                self.num_decoded += 1
                self._known[task.path] = (task, found)
                file.write(_line(task, found))
                file.flush()
                yield task, found
        wanted = {task.path for task in tasks}
        lines = [_line(*known) for path, known in sorted(self._known.items()) if path in wanted]
        write_bytes(self.root / KNOWN_FILE, "".join(lines).encode())

    def _recall(self, task: Task) -> Probe | None:
        known = self._known.get(task.path)
        if known is None or known[0] != task or not known[1].sha256:
            return None
        path, found = self.root / task.path, known[1]
        with suppress(OSError):
            now = path.stat()
            if now.st_size != found.num_bytes:
                return None
            if now.st_mtime_ns == found.mtime_ns:
                return found
            if file_sha256(path) == found.sha256:
                renewed = replace(found, mtime_ns=now.st_mtime_ns)
                self._known[task.path] = (task, renewed)
                return renewed
        return None

    def _decode(self, tasks: list[Task]) -> Iterator[tuple[Task, Probe]]:
        if self.num_workers == 0:
            yield from ((task, probe(self.root, task)) for task in tasks)
            return
        waiting = list(reversed(tasks))
        while waiting:
            suspects: list[Task] = []
            yield from self._in_pool(waiting, self.num_workers, suspects)
            # A decoder crashed: one of the files in work did it. Alone, each shows whether it was the one.
            for task in suspects:
                crashed: list[Task] = []
                yield from self._in_pool([task], 1, crashed)
                if crashed:
                    facts = (self.root / task.path).stat()
                    problem = "crashes the decoder; encode it anew"
                    yield task, Probe(facts.st_size, facts.st_mtime_ns, problem=problem)

    def _in_pool(
        self, waiting: list[Task], num_workers: int, suspects: list[Task]
    ) -> Iterator[tuple[Task, Probe]]:
        """Takes from the end of `waiting` until all is done or a process died: `suspects` were in work."""
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(num_workers, context, ignore_interrupts)
        running: dict[Future[Probe], Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * num_workers:
                    task = waiting.pop()
                    running[pool.submit(probe, self.root, task)] = task
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    found = future.result()
                    yield running.pop(future), found
        except BrokenProcessPool:
            suspects.extend(running.values())
        finally:
            for process in (
                pool._processes or {}
            ).values():  # the executor has no public way to stop its work
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(task: Task, found: Probe) -> str:
    row = {"format": _FORMAT, "task": asdict(task), "probe": {**asdict(found), "fps": _text(found.fps)}}
    return json.dumps(row, allow_nan=False) + "\n"


def _text(fps: Fraction | None) -> str | None:
    return None if fps is None else str(fps)


def _read_known(file: Path) -> dict[str, tuple[Task, Probe]]:
    """What earlier runs found; a row that is none (torn by a crash, of another version) is decoded again."""
    known: dict[str, tuple[Task, Probe]] = {}
    if not file.is_file():
        return known
    with file.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, KeyError, TypeError, ZeroDivisionError):
                row: dict[str, Any] = json.loads(line)
                if row["format"] != _FORMAT:
                    continue
                asked = row["task"]["stretches"]
                stretches = tuple(None if pair is None else (pair[0], pair[1]) for pair in asked)
                task = Task(**{**row["task"], "stretches": stretches})
                found = row["probe"]
                found["fps"] = None if found["fps"] is None else Fraction(found["fps"])
                found["stretches"] = tuple(Stretch(**stretch) for stretch in found["stretches"])
                found["notes"] = tuple(found["notes"])
                known[task.path] = (task, Probe(**found))
    return known
