"""The `video-diffusion` program: a table of verbs, imported only when one runs, and one way to end."""

import _thread
import difflib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from video_diffusion import __version__
from video_diffusion.cli.terminal import Terminated, report

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# verb -> (module, what it does in a few words); the command is the module's function of the verb's name
COMMANDS = {
    "generate": ("video_diffusion.cli.generate", "Make a clip from a prompt, measured before it is encoded."),
    "measure": ("video_diffusion.cli.measure", "Measure how well the frames of clips hold together."),
    "inspect": ("video_diffusion.cli.inspect", "Show what made a clip, or what weights are."),
    "rerun": (
        "video_diffusion.cli.rerun",
        "Make a clip again from its record; tell whether it is identical.",
    ),
    "compare": ("video_diffusion.cli.compare", "Compare settings, or clips, with statistics and a report."),
    "diagnose": (
        "video_diffusion.cli.diagnose",
        "Tell why a clip flickers, morphs or drifts, and what helps.",
    ),
    "tune": ("video_diffusion.cli.tune", "Search the best settings for prompts, and confirm them on others."),
    "data": ("video_diffusion.cli.data", "Check a folder of clips before training, or make procedural ones."),
    "train": ("video_diffusion.cli.train", "Fine-tune the temporal layers on clips; resumable at any step."),
    "convert": ("video_diffusion.cli.convert", "Write temporal weights in another layout."),
    "models": ("video_diffusion.cli.models", "List published models, and fetch them."),
    "doctor": ("video_diffusion.cli.doctor", "Check versions, devices, codecs, cache, disk and memory."),
}
BROKEN_PIPE = 141

EPILOG = """\b
Exit codes: 0 done, 1 a clip failed, 2 usage, config or input, 3 the model
cannot be loaded, 4 disk, memory, permission or device, 130 Ctrl-C, 143 SIGTERM.

--debug anywhere on the line (or VIDEO_DIFFUSION_DEBUG=1) shows tracebacks."""


class Program(click.Group):
    """A click group that imports a verb when it is called, and ends with one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one verb."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the verbs from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the verb, or says which one was probably meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Runs one verb and exits the process with its code."""
        words = list(sys.argv[1:] if args is None else args)
        self._main_shell_completion(extra, prog_name or "video-diffusion", complete_var)
        debug = os.environ.get("VIDEO_DIFFUSION_DEBUG", "") not in {"", "0"}
        if "--debug" in words[: words.index("--")] if "--" in words else "--debug" in words:
            words.remove("--debug")
            debug = True
        _make_streams_safe()
        try:
            with (
                _ends_on_signals(restore=args is not None),
                self.make_context(prog_name or "video-diffusion", words, **extra) as ctx,
            ):
                self.invoke(ctx)
            sys.stdout.flush()
            code = 0
        except click.exceptions.Exit as done:
            code = done.exit_code
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = error.exit_code
        except BrokenPipeError:
            code = _close_stdout()
        except BaseException as error:  # the end of the program: everything becomes one line
            code = report(error, debug)
            if isinstance(error, OSError) and error.filename == StandardOutput.NAME:
                _close_stdout()
        sys.exit(code)


class StandardOutput(io.FileIO):
    """Stdout that is named where it cannot be written, as a file is: a full disk, a quota."""

    NAME = "standard output"

    def write(self, data: "ReadableBuffer", /) -> int:
        """As a file does; None, of which typeshed knows nothing, is what would block."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.NAME) from None


def _make_streams_safe() -> None:
    """A stream that is closed goes nowhere; a character that an encoding lacks is escaped."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # `2>&-`: the next file opened would otherwise be taken for the stream
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    stdout = sys.stdout
    if stdout is sys.__stdout__ and isinstance(stdout, io.TextIOWrapper):  # not what somebody else put there
        stdout.flush()
        named = io.BufferedWriter(StandardOutput(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(named, stdout.encoding, line_buffering=stdout.line_buffering)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@contextmanager
def _ends_on_signals(restore: bool) -> Iterator[None]:
    """First Ctrl-C, SIGTERM or closed terminal: clean up and end; a second one ends at once.

    Args:
        restore: whether the process goes on after the program; else a Ctrl-C while it ends kills it, instead
            of showing a traceback from wherever Python was.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def unraisable(problem: "sys.UnraisableHookArgs") -> None:
        """Interrupt once more where the first time struck in a destructor or callback, which drop errors."""
        kind = problem.exc_type
        if not issubclass(kind, KeyboardInterrupt | Terminated):
            hook(problem)
            return
        number = signal.SIGINT if issubclass(kind, KeyboardInterrupt) else signal.SIGTERM
        signal.signal(number, interrupt)
        _thread.interrupt_main(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A run under nohup ignores SIGHUP and goes on doing so.
    numbers = [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
    wanted = {number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler if restore else signal.SIG_DFL)


def _close_stdout() -> int:
    """Nobody reads any more (`| head`): end quietly, also when Python flushes at its own end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)
    return BROKEN_PIPE


@click.group(
    "video-diffusion",
    cls=Program,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", prog_name="video-diffusion", message="%(prog)s %(version)s")
def main() -> None:
    """Text to video by temporal attention: make clips, measure how well they hold together."""
