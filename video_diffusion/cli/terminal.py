"""What the program shows: one-line errors, notes and progress on stderr, plain and safe on any terminal.

Every exception ends as one line and an exit code; a traceback on request, or in a file if nobody foresaw it.
0 done; 1 a clip failed; 2 usage, config or input; 3 the model cannot be loaded; 4 the machine: disk, memory,
permission, device; 130 and 143 stopped by Ctrl-C and SIGTERM.
"""

import difflib
import errno
import os
import sys
import tempfile
import time
import traceback
import unicodedata
from contextlib import suppress
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
    with suppress(OSError):  # a log that cannot be written is lost, the run is not
        click.echo(f"{label}: {printable(text)}" if label else printable(text), err=True)


def warn(text: str) -> None:
    """A `warning:` line on stderr."""
    say(text, "warning", "yellow")


def _draw(text: str) -> None:
    """Draw over the line on stderr."""
    with suppress(OSError):
        click.echo(text, err=True, nl=False)


def in_bytes(number: int) -> str:
    """Bytes for people: 812 kB, 3.4 MB, 5.1 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


class Progress:
    """A bar with the step and the seconds left, on stderr, on terminals only; its clock starts at once.

    Args:
        quiet: shows nothing.
        what: is counted.
    """

    WIDTH = 24
    EVERY = 0.1  # seconds between two looks of what changes faster

    def __init__(self, quiet: bool = False, what: str = "step") -> None:
        self.what = what
        self.shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.started = self.last = time.monotonic()

    def note(self, text: str) -> None:
        """Shows what takes a while and cannot be counted."""
        if self.shown:
            _draw(f"\r{printable(text)[: self.WIDTH + 38]} ")

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
            _draw(f"\r{self.what} {done} ")
            return
        left = (self.last - self.started) / done * (total - done)
        filled = self.WIDTH * done // total
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        _draw(f"\r{self.what} {done}/{total} [{bar}] {left:4.0f} s left ")

    def bytes_read(self, done: int, total: int) -> None:
        """Shows how much of a model's files is read."""
        if not self.shown or (done < total and time.monotonic() - self.last < self.EVERY):
            return
        self.last = time.monotonic()
        filled = self.WIDTH * done // max(total, 1)
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        _draw(f"\rloading [{bar}] {in_bytes(done)} of {in_bytes(total)} ")

    def clear(self) -> None:
        """Takes the bar away."""
        if self.shown:
            _draw("\r" + " " * (self.WIDTH + 40) + "\r")


# Every exception as one line and an exit code; a traceback on request, or in a file if nobody foresaw it.
#
# 0 done; 1 a clip failed; 2 usage, config or input; 3 the model cannot be loaded; 4 the machine: disk,
# memory, permission, device; 130 and 143 stopped by Ctrl-C and SIGTERM.


MAX_NAME = 300  # characters of a file's name that are told
NO_SUCH_NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}  # what was named, not the machine, is at fault

CLIP_FAILED, USAGE, MODEL, MACHINE, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 130, 143


class MachineError(RuntimeError):
    """The machine lacks something: a device, memory, disk space."""

    exit_code = 4


class Terminated(BaseException):
    """SIGTERM arrived; a BaseException so that nothing but clean-up runs."""


def report(error: BaseException, debug: bool) -> int:
    """Prints the error as one line (or as a traceback if `debug`) and returns the exit code."""
    code, line = describe(error)
    if debug and not isinstance(error, click.UsageError):
        traceback.print_exception(error)
    elif line is None:
        saved = _save_traceback(error)
        reason = _line(error)
        line = f"unexpected {type(error).__name__}: {reason}; the traceback is {saved}"
    told = getattr(error, "problems", None) or [line]  # of a job file each wrong row
    for each in filter(None, told):
        say(each, "error", "red")
    return code


def describe(error: BaseException) -> tuple[int, str | None]:
    """Exit code and line of an exception; the line is None for what was not foreseen."""
    for explain in (_usage, _stopped, _named, _machine):
        found = explain(error)
        if found is not None:
            return found
    from video_diffusion.settings.errors import is_ours

    if isinstance(error, ValueError) and is_ours(error):
        return USAGE, _line(error)
    return CLIP_FAILED, None


def _usage(error: BaseException) -> tuple[int, str] | None:
    if isinstance(error, click.UsageError):
        return USAGE, _usage_line(error)
    if isinstance(error, click.ClickException):
        return error.exit_code, error.format_message()
    if isinstance(error, FileExistsError) and error.errno is None:  # our refusal to overwrite
        return USAGE, _line(error)
    return None


def _stopped(error: BaseException) -> tuple[int, str] | None:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED, "stopped; nothing unfinished was kept"
    if isinstance(error, Terminated):
        return TERMINATED, "terminated; nothing unfinished was kept"
    return None


def _named(error: BaseException) -> tuple[int, str] | None:
    code = getattr(error, "exit_code", None)
    if isinstance(code, int) and type(error).__module__.startswith("video_diffusion"):
        return code, _line(error)
    return None


def _machine(error: BaseException) -> tuple[int, str] | None:
    from video_diffusion.settings.errors import is_out_of_memory  # see `_line`

    if is_out_of_memory(error):
        knobs = "make the clip smaller (--frames, --size), or add --low-memory"
        return MACHINE, f"out of memory ({_line(error)}); {knobs}"
    if isinstance(error, OSError):
        if "No usable temporary directory" in str(error):
            return MACHINE, f"{_line(error)}; set TMPDIR to a folder that can be written"
        where = f"{str(error.filename)[:MAX_NAME]}: " if error.filename else ""
        code = USAGE if error.errno in NO_SUCH_NAME else MACHINE
        return code, f"{where}{error.strerror or _line(error)}"
    return None


def _usage_line(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        known = [] if error.ctx is None else [name for p in error.ctx.command.params for name in p.opts]
        close = difflib.get_close_matches(error.option_name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "a value that starts with - goes after --"
        return f"{error.option_name}: no such option; {hint}"
    where = ""
    if isinstance(error, click.BadParameter) and error.param is not None:
        # the long name of an option, the metavar of an argument
        names = error.param.opts
        where = max(names, key=len) if names[0].startswith("-") else error.param.human_readable_name
    elif isinstance(error, click.BadOptionUsage):
        where = error.option_name
    message = (error.message if where else error.format_message()).rstrip(".")
    if isinstance(error, click.MissingParameter):
        message = "is missing"
    if message.startswith("Got unexpected extra argument"):
        message += "; put a prompt of several words in quotes"
    if error.ctx is not None and ";" not in message:
        message += f"; see {error.ctx.command_path} --help"
    return f"{where}: {message}" if where else message


def _line(error: BaseException) -> str:
    from video_diffusion.settings.errors import one_line  # with pydantic, which only an error needs here

    return one_line(error)


def _save_traceback(error: BaseException) -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="video-diffusion-traceback-", suffix=".txt")
    except OSError:
        return "shown by --debug (no temporary folder can be written)"
    with os.fdopen(handle, "w", errors="backslashreplace") as file:
        file.write(" ".join(sys.argv) + "\n")
        file.writelines(traceback.format_exception(error))
    return f"in {name}"
