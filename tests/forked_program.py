"""The program in a forked process with streams of its own, which has torch loaded already.

A process that imports all of it anew takes several seconds of processor time.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO

from video_diffusion.cli.main import main

PATIENCE = 300


@dataclass(frozen=True)
class Forked:
    """A program that runs, and the files that its streams go to."""

    words: Sequence[object]
    process: BaseProcess
    streams: tuple[IO[bytes], IO[bytes]]

    def send_signal(self, number: int) -> None:
        """To it alone, not to what it started."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended; where a stream went to a file of the test's, its text is empty."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "it goes on and on"
        texts = []
        for file in self.streams:
            readable = "r" in file.mode or "+" in file.mode
            texts.append(os.pread(file.fileno(), 1 << 24, 0).decode() if readable else "")
            file.close()
        return subprocess.CompletedProcess(self.words, self.process.exitcode, *texts)


def start(
    words: Sequence[object], home: Path | None = None, stdout: Path | None = None, stderr: int | None = None
) -> Forked:
    """Start it in the folder `home`, with stdout to a file and stderr to a descriptor, if they are given.

    Unlike a process of its own, it imports nothing, and Python does not take itself apart at its end.
    """
    out = stdout.open("wb") if stdout else tempfile.TemporaryFile()  # noqa: SIM115
    errors = tempfile.TemporaryFile() if stderr is None else os.fdopen(os.dup(stderr), "wb")  # noqa: SIM115
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_in_child, args=([str(word) for word in words], home, out, errors))
    process.start()
    return Forked(words, process, (out, errors))


def forked(
    words: Sequence[object], home: Path | None = None, stdout: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return start(words, home, stdout).end()


def _in_child(words: list[str], home: Path | None, out: IO[bytes], errors: IO[bytes]) -> None:
    if home is not None:
        os.chdir(home)
    for number, file in ((1, out), (2, errors)):
        os.dup2(file.fileno(), number)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
    main(words)
