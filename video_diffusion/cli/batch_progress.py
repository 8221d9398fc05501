"""How far a run over many clips is, in one line; and its end, with the failures listed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.failures import CLIP_FAILED, MACHINE, MODEL, NAMED
from video_diffusion.cli.terminal import say

if TYPE_CHECKING:
    from video_diffusion.jobs import Outcome

LISTED = 20


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        total: jobs of this process.
        failed: the first few failures.
        first_errors: what the first failure of each kind of exception raised.
    """

    total: int
    made: int = 0
    skipped: int = 0
    num_failed: int = 0
    failed: list[Mapping[str, Any]] = field(default_factory=list)
    first_errors: dict[str, Exception] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: "Outcome") -> None:
        """Counts one job."""
        self.made += outcome.status == "ok"
        self.skipped += outcome.status == "skipped"
        if outcome.status != "failed":
            return
        self.num_failed += 1
        if len(self.failed) < LISTED:
            self.failed.append(outcome.row)
        if outcome.error is not None:
            self.first_errors.setdefault(type(outcome.error).__name__, outcome.error)

    def line(self) -> str:
        """Done, failed and left, with the rate and the time left once a clip was made."""
        left = self.total - self.made - self.skipped - self.num_failed
        text = (
            f"{self.made + self.skipped} done ({self.skipped} before), {self.num_failed} failed, {left} left"
        )
        tried = self.made + self.num_failed
        if not tried:
            return text
        seconds = (time.monotonic() - self.started) / tried
        return f"{text} · {60 / max(seconds, 1e-9):.1f} clips/min · {duration(seconds * left)} to go"

    def end(self) -> None:
        """Lists what failed. If nothing could even be loaded, that is the error of the whole run.

        Raises:
            click.exceptions.Exit: with 1, if a clip failed.
            ModelLoadError, DeviceError: no job got as far as a loaded model.
        """
        if not self.num_failed:
            return
        whole_run = {MODEL, MACHINE}
        if not self.made and all(NAMED.get(name) in whole_run for name in self.first_errors):
            for error in self.first_errors.values():
                raise error
        say(f"{self.num_failed} failed; results.jsonl has each reason:")
        for row in self.failed:
            say(f"  {row['where']} {row['job_id']}: {row['error']}")
        if self.num_failed > len(self.failed):
            say(f"  and {self.num_failed - len(self.failed)} more")
        raise click.exceptions.Exit(CLIP_FAILED)


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3 h 05 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
