"""The program's frame: quick help, one-line errors, exit codes, and output that is safe on any terminal."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from video_diffusion import __version__
from video_diffusion.cli import terminal
from video_diffusion.cli import terminal as failures
from video_diffusion.cli.main import COMMANDS, main

HEAVY = {"torch", "numpy", "diffusers", "transformers", "pydantic", "av", "PIL", "cv2", "ruamel"}


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def program(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "video_diffusion", *words],
        capture_output=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture
def broken_verb(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Makes `generate` raise whatever is put into the list."""
    errors: list[BaseException] = []

    @click.command()
    def generate() -> None:
        raise errors[0]

    import video_diffusion.cli.generate as module

    monkeypatch.setattr(module, "generate", generate)
    return errors


@pytest.mark.parametrize(
    "words", [[], *([verb] for verb in COMMANDS)], ids=lambda words: " ".join(words) or "program"
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom video_diffusion.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: print(end.code)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *words, "--help"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    declared = ["pydantic", "ruamel"] if words == ["generate"] else []  # its flags are made from declarations
    assert lines[-2:] == ["0", str(declared)]
    assert lines[0].startswith("Usage: video-diffusion")


def test_the_help_lists_every_verb_and_the_exit_codes() -> None:
    text = run("--help").stdout
    assert all(verb in text for verb in COMMANDS)
    assert all(
        part in text for part in ("0 done", "2 usage", "3 the model", "4 disk", "130 Ctrl-C", "143 SIGTERM")
    )


def test_every_verb_of_the_table_exists() -> None:
    for verb in COMMANDS:
        assert run(verb, "--help").exit_code == 0, verb


def test_version_and_module_and_no_words() -> None:
    assert run("--version").stdout == f"video-diffusion {__version__}\n"
    assert program("--version").stdout == f"video-diffusion {__version__}\n".encode()
    nothing = run()
    assert nothing.exit_code == 2 and "Commands:" in nothing.stderr


@pytest.mark.parametrize(
    "words, expected",
    [
        (["genrate"], "error: no such command 'genrate'; did you mean 'generate'?\n"),
        (["zzz"], f"error: no such command 'zzz'; known are {', '.join(COMMANDS)}\n"),
        (["\x1b[2J"], "error: no such command '\\x1b[2J'; known are"),
        (["--hlp"], "error: --hlp: no such option"),
        (["inspect"], "error: FILE: is missing; see video-diffusion inspect --help\n"),
        (["generate", "a", "--seed"], "error: --seed: Option '--seed' requires an argument"),
    ],
)
def test_usage_errors_are_one_line_with_a_way_out(words: list[str], expected: str) -> None:
    result = run(*words)
    assert result.exit_code == 2 and result.stderr.startswith(expected)
    assert result.stderr.count("\n") == 1 and result.stdout == ""


@pytest.mark.parametrize(
    "error, code, line",
    [
        (KeyboardInterrupt(), 130, "stopped; nothing unfinished was kept"),
        (failures.Terminated(), 143, "terminated; nothing unfinished was kept"),
        (MemoryError(), 4, "out of memory (MemoryError); make the clip smaller (--frames, --size)"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate\nmore"),
            4,
            "out of memory ([enforce] Default",
        ),
        (OSError(28, "No space left on device", "/x/y.mp4"), 4, "/x/y.mp4: No space left on device"),
        (PermissionError(13, "Permission denied", "/x"), 4, "/x: Permission denied"),
        (FileExistsError("/x exists; overwrite it"), 2, "/x exists; overwrite it"),
        (failures.MachineError("no such device"), 4, "no such device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_have_their_exit_codes(
    broken_verb: list[BaseException], error: BaseException, code: int, line: str
) -> None:
    broken_verb.append(error)
    result = run("generate")
    assert result.exit_code == code and result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1


def test_an_unexpected_error_saves_its_traceback(
    broken_verb: list[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken_verb.append(TypeError("not \x1b[31m\nforeseen"))
    result = run("generate")
    (saved,) = tmp_path.iterdir()
    expected = f"error: unexpected TypeError: not \\x1b[31m; the traceback is in {saved}\n"
    assert (result.exit_code, result.stderr) == (1, expected)
    assert "Traceback (most recent call last)" in saved.read_text()


def test_a_value_error_of_a_library_is_not_called_the_users(
    broken_verb: list[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken_verb.append(ValueError("deep inside"))  # raised here, outside the package
    assert run("generate").exit_code == 1
    assert run("inspect", str(tmp_path / "none")).exit_code == 2


@pytest.mark.parametrize(
    "words, variable", [(["--debug", "generate"], "0"), (["generate", "--debug"], ""), (["generate"], "1")]
)
def test_debug_shows_the_traceback(
    broken_verb: list[BaseException], words: list[str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEO_DIFFUSION_DEBUG", variable)
    broken_verb.append(OSError(28, "No space left on device", "/x"))
    result = run(*words)
    assert result.exit_code == 4
    assert "Traceback (most recent call last)" in result.stderr and "error: /x: No space" in result.stderr


@pytest.mark.parametrize("name", ["a\nb.yaml", "[$x.yaml", "\x1b[2J.yaml"])
def test_a_name_with_a_line_break_is_told_whole(name: str, tmp_path: Path) -> None:
    """Symptom: `error: a`, for a file whose name goes on after a line break."""
    result = run("generate", "a", "--config", str(tmp_path / name))
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert result.exit_code == 2 and result.stderr == f"error: {tmp_path / shown}: no such file\n"


@pytest.mark.parametrize(
    "words", [["generate", "a", "--model"], ["generate", "a", "--lora"], ["train", "--data"], ["inspect"]]
)
def test_a_name_longer_than_names_can_be_is_no_fault_of_the_machine(words: list[str]) -> None:
    """Symptom: code 4, as if the machine were at fault, and five thousand characters of name."""
    for name in ("x" * 256, "x" * 5000, "~nobody_such/x"):  # nor is a user who is not here
        result = run(*words, name)
        assert result.exit_code in {2, 3} and result.stderr.count("\n") == 1 and len(result.stderr) < 500


def test_a_training_without_data_names_its_file(tmp_path: Path) -> None:
    """Symptom: "CONFIG: is missing", though it was given, and `a` was the mistake."""
    file = tmp_path / "t.yaml"
    file.write_text("num_steps: 3\n")
    assert run("train", str(file)).stderr.startswith(f"error: {file}: data is missing; give a folder")
    file.write_text("a: 1\n")
    assert run("train", str(file)).stderr.startswith(f"error: {file}:1: no setting 'a'")


def test_debug_after_two_dashes_is_a_prompt() -> None:
    result = run("generate", "--frames", "0", "--", "--debug")
    assert result.stderr.startswith("error: --frames") and "Traceback" not in result.stderr


def test_nobody_reading_stdout_ends_quietly() -> None:
    """As in `video-diffusion --help | head -c 1`."""
    command = [sys.executable, "-m", "video_diffusion", "--help"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_stdout_is_told_with_the_name_of_stdout() -> None:
    """Symptom: `> /dev/full` ended with "No space left on device", and nobody could tell of which file."""
    command = [sys.executable, "-m", "video_diffusion", "--help"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (4, b"error: standard output: No space left on device\n")


def test_an_interrupt_inside_an_import_keeps_its_exit_code(tmp_path: Path) -> None:
    """Python itself would die by the signal: it remembers interrupts that struck inside an exec() of text."""
    (tmp_path / "sitecustomize.py").write_text(
        "import video_diffusion.cli.doctor as verb\n"
        "def interrupted(*words): exec('raise KeyboardInterrupt')\n"
        "verb.doctor.invoke = interrupted\n"
    )
    done = program("doctor", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (130, b"error: stopped; nothing unfinished was kept\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_poor_terminals_never_crash_the_program(encoding: str) -> None:
    """Click itself takes ASCII for a mistake and writes UTF-8; what latin-1 lacks is escaped."""
    shown = {"ascii": "漢字".encode(), "latin-1": b"\\u6f22\\u5b57"}[encoding]
    done = program("inspect", "漢字.mp4", LC_ALL="C", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: FILE: " + shown + b".mp4: no such file or folder")


def on_a_terminal(code: str, **environment: str) -> bytes:
    """What a program writes to a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    cleared = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, env=cleared | {"TERM": "xterm"} | environment
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    process.wait()
    return written


ERROR = "from video_diffusion.cli.terminal import say; say('x\\x1b[2J', 'error', 'red')"


def test_colour_only_where_it_is_wanted() -> None:
    assert b"\x1b[31m\x1b[1merror\x1b[0m: x\\x1b[2J" in on_a_terminal(ERROR)
    assert on_a_terminal(ERROR, NO_COLOR="1") == b"error: x\\x1b[2J\r\n"
    assert on_a_terminal(ERROR, TERM="dumb") == b"error: x\\x1b[2J\r\n"
    done = subprocess.run([sys.executable, "-c", ERROR], capture_output=True, check=True)
    assert done.stderr == b"error: x\\x1b[2J\n"


STEPS = """
from video_diffusion.cli.terminal import Progress
progress = Progress()
for step in range(1, 4):
    progress.step(step, 3)
progress.clear()
"""


def test_the_bar_shows_step_and_seconds_left_on_terminals_only() -> None:
    shown = on_a_terminal(STEPS)
    assert b"step 2/3 [################--------]    0 s left" in shown
    assert shown.endswith(b" \r")
    assert on_a_terminal(STEPS, TERM="dumb") == b""
    assert subprocess.run([sys.executable, "-c", STEPS], capture_output=True, check=True).stderr == b""


def test_the_seconds_left_follow_the_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = terminal.Progress()
    progress.shown = True
    now[0] += 6
    progress.step(2, 5)
    assert "step 2/5" in capsys.readouterr().err.replace("   9 s left", " 9 s left")
    progress.step(0, 5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text, expected",
    [
        ("plain é 漢 \U0001f600", "plain é 漢 \U0001f600"),
        ("\x00\x1b[2J\x7f\x9b", "\\x00\\x1b[2J\\x7f\\x9b"),
        ("two\nlines\ttab\r", "two\\nlines\\ttab\\r"),
        ("\u202e\u2066\u200b\u2028\ufeff", "\\u202e\\u2066\\u200b\\u2028\\ufeff"),
        ("\udcff", "\\udcff"),
        ("[/] [red]", "[/] [red]"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert terminal.printable(text) == expected
