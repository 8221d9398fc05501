"""What the program shows: one-line errors, notes and progress on stderr, plain and safe on any terminal."""

import os
import sys
import time
import unicodedata
from typing import TextIO

import click


def printable(text: str) -> str:
    """The text with all that steers a terminal escaped: controls, newlines, direction marks, surrogates."""
    return "".join(
        sign if unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} else _escaped(sign)
        for sign in text
    )


def _escaped(sign: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return named.get(sign) or sign.encode("unicode_escape", "surrogatepass").decode()


def has_colour(stream: TextIO) -> bool:
    """Whether the stream is a terminal that wants colour (NO_COLOR, TERM=dumb)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def say(text: str, label: str = "", colour: str | None = None) -> None:
    """One line on stderr, escaped; the label (such as "error") is coloured where that is wanted."""
    if label and colour and has_colour(sys.stderr):
        label = click.style(label, fg=colour, bold=True)
    click.echo(f"{label}: {printable(text)}" if label else printable(text), err=True)


def warn(text: str) -> None:
    """A `warning:` line on stderr."""
    say(text, "warning", "yellow")


class Progress:
    """A bar with the step and the seconds left, on stderr, on terminals only; its clock starts at once.

    Args:
        quiet: shows nothing.
        what: is counted.
    """

    WIDTH = 24

    def __init__(self, quiet: bool = False, what: str = "step") -> None:
        self.what = what
        self.shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.started = self.last = time.monotonic()

    def note(self, text: str) -> None:
        """Shows what takes a while and cannot be counted."""
        if self.shown:
            click.echo(f"\r{printable(text)[: self.WIDTH + 38]} ", err=True, nl=False)

    def count(self, what: str, done: int, total: int) -> None:
        """Shows `step` of something else, whose clock starts where that of the last one ended."""
        if what != self.what:
            self.clear()
            self.what, self.started = what, self.last
        self.step(done, total)

    def step(self, done: int, total: int | None) -> None:
        """Shows that `done` of `total` steps are done; None is a total that nobody knows yet."""
        if not self.shown or done < 1:
            return
        self.last = time.monotonic()
        if total is None:
            click.echo(f"\r{self.what} {done} ", err=True, nl=False)
            return
        left = (self.last - self.started) / done * (total - done)
        filled = self.WIDTH * done // total
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        click.echo(f"\r{self.what} {done}/{total} [{bar}] {left:4.0f} s left ", err=True, nl=False)

    def clear(self) -> None:
        """Takes the bar away."""
        if self.shown:
            click.echo("\r" + " " * (self.WIDTH + 40) + "\r", err=True, nl=False)
