"""What `generate` shows while it works: loading, steps, frames; on a terminal, and nowhere else."""

import os
import pty

import pytest
from forked_program import start

from video_diffusion.cli.terminal import Progress


def generate(tmp_path, tiny_model, *more, stderr=None):
    words = [
        "generate",
        "a red circle",
        "--model",
        tiny_model,
        "--frames",
        "5",
        "--steps",
        "2",
        "--device",
        "cpu",
        *more,
    ]
    done = start([*words, "-o", tmp_path / "clip.mp4"], stderr=stderr).end()
    assert done.returncode == 0, done.stderr
    return done


def shown_on_a_terminal(tmp_path, tiny_model, *more):
    controller, terminal = pty.openpty()
    generate(tmp_path, tiny_model, *more, stderr=terminal)
    os.close(terminal)
    try:
        return os.read(controller, 65536).decode()
    except OSError:  # Linux's answer where nothing was ever written
        return ""
    finally:
        os.close(controller)


@pytest.mark.full
def test_a_terminal_is_told_of_every_stage_in_turn(tmp_path, tiny_model):
    shown = shown_on_a_terminal(tmp_path, tiny_model)
    stages = [
        "loading ",
        "step 1/2 [",
        "step 2/2 [",
        "decoded frame 5/5 [",
        "measured frame 1/5 [",
        "measured frame 5/5 [",
    ]
    places = [shown.find(stage) for stage in stages]
    assert -1 not in places and places == sorted(places)


@pytest.mark.full
def test_nothing_moves_in_a_file(tmp_path, tiny_model):
    lines = generate(tmp_path, tiny_model).stderr.splitlines()
    assert lines and not [line for line in lines if "\r" in line or "loading" in line or "frame 5/5" in line]


def test_nothing_is_shown_where_quiet_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert Progress().shown
    progress = Progress(quiet=True)
    progress.note("loading")
    progress.count("step", 1, 2)
    progress.clear()
    assert capsys.readouterr().err == ""


def test_each_count_has_a_clock_of_its_own(monkeypatch, capsys):
    """Ten seconds of steps tell nothing about how long the frames after them take."""
    seconds = iter([0.0, 10.0, 12.0, 14.0])
    monkeypatch.setattr("video_diffusion.cli.terminal.time.monotonic", lambda: next(seconds))
    progress = Progress()
    progress.shown = True
    for what, done, total in (("step", 1, 1), ("frame", 1, 3), ("frame", 2, 3)):
        progress.count(what, done, total)
    shown = capsys.readouterr().err
    assert "frame 1/3 [########----------------]    4 s left" in shown
    assert "frame 2/3 [################--------]    2 s left" in shown
