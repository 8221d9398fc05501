"""A hundred and forty kills over six commands, at chosen file operations and at random moments."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from motion_files import published_file
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.settings.input_files import file_sha256
from video_diffusion.video import frames_sha256, read_record, read_video

KILLS = 24  # of each command: two thirds before an operation on a file, one third at a random moment
OPERATIONS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"}
PATIENCE = 300
SIZES = ["--frames", "2", "--size", "24x16", "--steps", "1", "--device", "cpu"]


@dataclass(frozen=True)
class Verb:
    """A command that may be killed.

    Attributes:
        words: For the folder that it writes to, from its present state.
        end: What is the same however often it was killed.
        check: What holds after every kill.
        resumes: Whether a killed run goes on in its folder; else each run begins with a copy of `before`.
        before: What is there already.
    """

    words: Callable[[Path], Sequence[object]]
    end: Callable[[Path], Any]
    check: Callable[[Path], None]
    resumes: bool = True
    before: Path | None = None


def rows(folder: Path) -> list[dict[str, Any]]:
    file = folder / "results.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def clips_are_whole(folder: Path) -> None:
    for row in rows(folder):
        assert (folder / row["file"]).stat().st_size == row["bytes"]
    for clip in folder.rglob("*.mp4"):
        assert len(read_video(clip).frames) == 2


def made(folder: Path) -> set[tuple[str, str]]:
    found = rows(folder)
    assert len({row["job_id"] for row in found}) == len(found)
    return {(row["job_id"], row["frames_sha256"]) for row in found}


def generate(home: Path, model: Path) -> Verb:
    """A clip in place of another: it stands with its own record at any moment."""

    def words(folder: Path, seed: int = 2) -> list[object]:
        encoding = ["--codec", "libx264rgb"]
        sizes = [*SIZES, "--seed", seed, "--overwrite", *encoding, "-q"]
        return ["generate", "a red circle", "-o", folder / "c.mp4", "--model", model, *sizes]

    (home / "old").mkdir()
    assert finished(words(home / "old", 1), home / "log") == 0

    def check(folder: Path) -> None:
        record = read_record(folder / "c.mp4")
        assert record.frames_sha256 == frames_sha256(read_video(folder / "c.mp4").frames)

    return Verb(words, lambda folder: read_record(folder / "c.mp4").frames_sha256, check, False, home / "old")


def batch(home: Path, model: Path) -> Verb:
    """Twelve clips."""
    (home / "jobs.csv").write_text("prompt,seeds\na red circle,0-11\n")
    words = ["generate", "--jobs", home / "jobs.csv", "--model", model, *SIZES]
    return Verb(lambda folder: [*words, "-o", folder], made, clips_are_whole)


def compare(home: Path, model: Path) -> Verb:
    """Two settings, four clips each, and the report."""
    (home / "prompts.txt").write_text("a red circle\n")
    words = ["compare", "--grid", "guidance_scale=[1,2]", "--prompts", home / "prompts.txt", "--seeds", "0-3"]
    values = {"model": model, "device": "cpu", "num_frames": 2, "size": "24x16", "num_inference_steps": 1}
    words += [word for name, value in values.items() for word in ("--set", f"{name}={value}")]

    def check(folder: Path) -> None:
        clips_are_whole(folder)
        if (folder / "summary.json").exists():
            json.loads((folder / "summary.json").read_text())

    return Verb(lambda folder: [*words, "-o", folder], made, check)


def tune(home: Path, model: Path) -> Verb:
    """Six trials, each proposed as it would have been without a kill."""
    (home / "search.yaml").write_text(
        f"objectives: [raw_flicker, sharpness]\nprompts: [a red, a circle, red]\nseeds: 0\ntrials: 6\n"
        f"settings: {{model: {model}, device: cpu, num_frames: 2, size: 24x16, num_inference_steps: 1}}\n"
        "search: {guidance_scale: {range: [1, 8]}, scheduler: [ddim, euler]}\n"
        "confirm: {prompts: [a, circle, red red, a a, a circle a, a red circle]}\n"
    )

    def end(folder: Path) -> object:
        summary = json.loads((folder / "summary.json").read_text())
        return summary["search"]["trials"], summary["sentence"], made(folder)

    def check(folder: Path) -> None:
        clips_are_whole(folder)
        if (folder / "summary.json").exists():
            json.loads((folder / "summary.json").read_text())

    return Verb(lambda folder: ["tune", home / "search.yaml", "-o", folder, "-q"], end, check)


def convert(home: Path, model: Path) -> Verb:
    """A folder in place of another: at any moment one of them stands, whole."""
    source = published_file(home, "animatediff-v3")
    old = home / "old"
    old.mkdir()
    (old / "adapter").mkdir()
    (old / "adapter" / "config.json").write_text('{"old": true}')
    (old / "adapter" / "weights.safetensors").write_bytes(b"old")

    def end(folder: Path) -> dict[str, str]:
        files = (folder / "adapter").rglob("*")
        return {file.name: file_sha256(file) for file in files if file.is_file()}

    whole: list[dict[str, str]] = []

    def check(folder: Path) -> None:
        if not whole:
            shutil.copytree(old, home / "reference")
            assert finished(words(home / "reference"), home / "log") == 0
            whole.append(end(home / "reference"))
        assert end(folder) in (end(old), *whole)

    def words(folder: Path) -> list[object]:
        return ["convert", source, folder / "adapter", "--to", "diffusers", "--overwrite"]

    return Verb(words, end, check, False, old)


def train(home: Path, model: Path) -> Verb:
    """Twelve steps with a checkpoint after each."""
    tiny, clips = write_tiny_model(home / "model"), write_tiny_clips(home / "clips")
    config = home / "train.yaml"
    config.write_text(
        f"data: {clips}\nmodel: {tiny}\nnum_steps: 12\nbatch_size: 2\ndevice: cpu\n"
        "validation: {every: 0}\ncheckpoint: {every: 1}\n"
    )

    def words(folder: Path) -> list[object]:
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        return ["train", config, "-o", folder, *resume]

    def end(folder: Path) -> dict[str, str]:
        losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in losses if "loss" in row] == list(range(1, 13))
        return {file.name: file_sha256(file) for file in (folder / "motion_adapter").glob("*.safetensors")}

    def check(folder: Path) -> None:
        for file in folder.rglob("*.safetensors"):
            if not any(part.startswith(".") for part in file.relative_to(folder).parts):
                assert file.stat().st_size > 8 + int.from_bytes(file.read_bytes()[:8], "little")

    return Verb(words, end, check)


def _in_child(words: Sequence[object], log: Path, folder: Path, kill_before: int) -> None:
    """Run a command; before that many operations on files of the folder, die."""
    left = [kill_before]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            is_one = isinstance(path, str | bytes) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            is_one, path = event in OPERATIONS, arguments[0] if arguments else ""
        if is_one and str(folder) in os.fsdecode(path if isinstance(path, str | bytes | Path) else ""):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    with log.open("a") as file:
        sys.stdout = sys.stderr = file
        sys.addaudithook(watch)
        main(list(map(str, words)))


def started(
    words: Sequence[object], log: Path, folder: Path = Path("/nowhere"), kill_before: int = 0
) -> multiprocessing.process.BaseProcess:
    """The program in a forked process, which has torch loaded already."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_in_child, args=(words, log, folder, kill_before))
    process.start()
    return process


def finished(words: Sequence[object], log: Path) -> int | None:
    process = started(words, log)
    process.join(PATIENCE)
    return process.exitcode


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith((".part", ".part.lock"))]


@pytest.mark.slow
@pytest.mark.parametrize("verb", [generate, batch, compare, tune, convert, train])
def test_killed_anywhere_nothing_is_partial_nothing_lost_and_the_end_is_the_unbroken_runs(
    tmp_path: Path, tiny_model: Path, verb: Callable[[Path, Path], Verb]
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    made_by = verb(home, tiny_model)
    draw = random.Random(verb.__name__)
    whole, folder = tmp_path / "whole", tmp_path / "killed"

    def begin(place: Path) -> None:
        if not made_by.resumes:
            shutil.rmtree(place, ignore_errors=True)
            assert made_by.before is not None
            shutil.copytree(made_by.before, place)

    begin(whole)
    began = time.monotonic()
    assert finished(made_by.words(whole), log) == 0, log.read_text()
    seconds, expected = time.monotonic() - began, made_by.end(whole)
    killed, most = 0, 60
    while killed < KILLS:
        begin(folder)
        if killed % 3 < 2:
            process = started(made_by.words(folder), log, folder, draw.randint(1, most))
        else:
            process = started(made_by.words(folder), log)
            time.sleep(draw.uniform(0, seconds))
            process.kill()
        process.join(PATIENCE)
        assert process.exitcode in {0, -signal.SIGKILL}, log.read_text()
        if process.exitcode:
            killed += 1
        else:  # it came to its end first: begin anew, and kill earlier
            assert made_by.end(folder) == expected
            most = max(most // 2, 8)
            shutil.rmtree(folder)
            continue
        if folder.exists():
            made_by.check(folder)
    assert finished(made_by.words(folder), log) == 0, log.read_text()
    assert made_by.end(folder) == expected
    assert not leftovers(folder)
    print(f"{verb.__name__}: {killed} kills")
