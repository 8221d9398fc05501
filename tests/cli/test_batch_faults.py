"""`generate --jobs` and `compare` in real processes that are killed, doubled or run out of disk."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_disk import small_disk

from video_diffusion.cli.main import main
from video_diffusion.comparison.report import read_summary
from video_diffusion.jobs import Pipelines, model_facts, read_jobs, run_jobs

PATIENCE = 300


def run(*words):
    result = CliRunner().invoke(main, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def jobs(tmp_path, tiny_model):
    """Words that make six clips of two frames and one step."""
    file = tmp_path / "jobs.csv"
    file.write_text("prompt,seeds\na red circle,0-5\n")
    sizes = ["--frames", "2", "--size", "24x16", "--steps", "1"]
    return ["generate", "--jobs", file, "--model", tiny_model, "--device", "cpu", *sizes]


@pytest.fixture
def comparison(tmp_path, tiny_model):
    """Six clips of the same kind, of two settings under comparison."""
    return comparison_words(tmp_path, tiny_model, "a red circle\n", "[1,2]", "0-2")


def comparison_words(tmp_path, tiny_model, prompts, guidance_scales, seeds):
    file = tmp_path / "prompts.txt"
    file.write_text(prompts)
    words = ["compare", "--grid", f"guidance_scale={guidance_scales}", "--prompts", file, "--seeds", seeds]
    settings = {"model": tiny_model, "device": "cpu", "num_frames": 2, "size": "24x16"}
    for name, value in {**settings, "num_inference_steps": 1}.items():
        words += ["--set", f"{name}={value}"]
    return words


def rows(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def hashes(folder):
    """Job id to hash of the frames; two rows of one job must agree."""
    pairs = {(row["job_id"], row["frames_sha256"]) for row in rows(folder)}
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def leftovers(folder):
    """Clips without record, records without clip, and part files."""
    clips, records = ({path.stem for path in folder.rglob(f"*{end}")} for end in (".mp4", ".json"))
    return (clips ^ records) - {"summary"} | {path.name for path in folder.rglob(".*")}


def _in_child(words, log):
    with Path(log).open("a") as file:
        sys.stdout = sys.stderr = file
        main(list(map(str, words)))


def start(words, log):
    """The program in a forked process, which has torch loaded already."""
    process = multiprocessing.get_context("fork").Process(target=_in_child, args=(words, log))
    process.start()
    return process


def wait_for_clips(process, folder, more_than):
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.rglob("*.mp4"))) <= more_than and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_processes_on_one_folder_make_each_job_once_or_twice_alike(tmp_path, jobs):
    both = [start([*jobs, "-o", tmp_path / "clips"], tmp_path / "log") for _ in range(2)]
    for process in both:
        process.join(PATIENCE)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(hashes(tmp_path / "clips")) == 6 <= len(rows(tmp_path / "clips")) <= 12
    assert not leftovers(tmp_path / "clips")
    code, _, err = run(*jobs, "-o", tmp_path / "clips", "--verify")
    assert (code, "6 done (6 before)" in err) == (0, True)


@pytest.mark.slow
def test_two_processes_on_one_comparison_make_each_clip_once_or_twice_alike(tmp_path, comparison):
    both = [start([*comparison, "-o", tmp_path / "out"], tmp_path / "log") for _ in range(2)]
    for process in both:
        process.join(PATIENCE)
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "log").read_text()
    assert len(hashes(tmp_path / "out")) == 6 <= len(rows(tmp_path / "out")) <= 12
    assert not leftovers(tmp_path / "out")
    summary = read_summary(tmp_path / "out")
    assert [arm.num_clips for arm in summary.arms] == [3, 3] and not summary.looks


@pytest.mark.parametrize("verb", ["jobs", "comparison"])
def test_a_folder_that_is_taken_away_ends_the_run_with_what_was_made_intact(tmp_path, verb, request):
    words = request.getfixturevalue(verb)
    process = start([*words, "-o", tmp_path / "out"], tmp_path / "log")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "out" / "results.jsonl").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    process.join(PATIENCE)
    assert process.exitcode == 4, (tmp_path / "log").read_text()
    assert "No such file or directory" in (tmp_path / "log").read_text()
    for row in rows(tmp_path / "elsewhere"):
        clip = tmp_path / "elsewhere" / row["file"]
        assert clip.stat().st_size == row["bytes"] and clip.with_suffix(".json").exists()


@pytest.mark.full
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_says_how_far_it_came_and_goes_on_from_there(tmp_path, jobs, number, code):
    folder = tmp_path / "clips"
    (tmp_path / "jobs.csv").write_text("prompt,seeds\na red circle,0-19\n")  # not all made before the signal
    process = start([*jobs, "-o", folder], tmp_path / "log")
    wait_for_clips(process, folder, 0)
    os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode == code
    assert " done (0 before), 0 failed, " in (tmp_path / "log").read_text()
    assert "; the same command goes on from here" in (tmp_path / "log").read_text()
    assert not list(folder.glob(".*"))
    assert run(*jobs, "-o", folder)[0] == 0
    assert not leftovers(folder)
    assert len(hashes(folder)) == 20 == len(list(folder.glob("*.mp4")))


@pytest.mark.full
def test_a_disk_that_fills_up_ends_the_run_and_with_more_space_it_goes_on(tmp_path, jobs, monkeypatch):
    """The estimate before the run is switched off, so that writing itself meets the full disk."""
    from video_diffusion.cli import outputs as output_checks

    monkeypatch.setattr(output_checks, "SPARE_BYTES", 0)
    disk = tmp_path / "disk"
    with small_disk(disk, "size=40k"):
        code, out, err = run(*jobs, "-o", disk / "clips")
        assert code == 4, err
        assert "No space left on device" in err and "goes on from here" in err
        first = hashes(disk / "clips")
        assert 0 < len(first) < 6
        assert [Path(line).exists() for line in out.splitlines()] == [True] * len(first)
        assert not leftovers(disk / "clips")
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        assert run(*jobs, "-o", disk / "clips", "--verify")[0] == 0
        assert first.items() < hashes(disk / "clips").items()
        assert len(rows(disk / "clips")) == 6
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, _, err = run(*jobs, "-o", disk / "clips", "--seed", 9)
        assert (code, "Read-only file system" in err) == (4, True)
        assert len(hashes(disk / "clips")) == 6


def test_a_limit_of_file_sizes_ends_the_run_and_leaves_earlier_clips(tmp_path, jobs):
    """results.jsonl is the file that grows; Python ignores the signal, so that writing it fails."""
    folder = tmp_path / "clips"
    assert run(*jobs, "-o", folder, "--shard", "0/6")[0] == 0
    before = hashes(folder)
    largest = max(path.stat().st_size for path in folder.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (max(largest, 3 * len(json.dumps(rows(folder)[0]))) + 200, hard)
    )
    try:
        for _ in range(4):  # until the rows have grown to the limit
            code, _, err = run(*jobs, "-o", folder, "--seed", 3, "--overwrite")
            if code:
                break
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, "File too large" in err) == (4, True), err
    assert before.items() <= hashes(folder).items()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_folder_that_is_removed_ends_the_run(tmp_path, jobs, tiny_model):
    folder = tmp_path / "clips"
    folder.mkdir()
    base = {"model": str(tiny_model), "device": "cpu", "num_frames": 2, "num_inference_steps": 1}
    outcomes = run_jobs(read_jobs(tmp_path / "jobs.csv", base, model_facts), folder, Pipelines())
    assert next(outcomes).status == "ok"
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        next(outcomes)


def batch_of_many(tmp_path, tiny_model):
    file = tmp_path / "many.csv"
    file.write_text("prompt,seeds\na red circle,0-129\n")
    sizes = ["--frames", "2", "--size", "24x16", "--steps", "1"]
    return ["generate", "--jobs", file, "--model", tiny_model, "--device", "cpu", *sizes], 130


def comparison_of_many(tmp_path, tiny_model):
    return comparison_words(tmp_path, tiny_model, "a red circle\na circle\n", "[1,2,3]", "0-21"), 132


@pytest.mark.slow
@pytest.mark.parametrize("many", [batch_of_many, comparison_of_many])
def test_a_hundred_kills_leave_nothing_partial_and_the_same_clips(tmp_path, tiny_model, many):
    """100 × kill -9 at random moments; what is finished in the end equals an unbroken run."""
    words, count = many(tmp_path, tiny_model)
    assert run(*words, "-o", tmp_path / "whole")[0] == 0
    whole = hashes(tmp_path / "whole")
    assert len(whole) == count
    draw = random.Random(0)
    folder = tmp_path / "killed"
    seen = clip_seconds = 0.0
    for _ in range(100):
        process = start([*words, "-o", folder], tmp_path / "log")
        if draw.random() < 0.2:
            time.sleep(draw.uniform(0, 1))  # while it starts
        else:
            began = time.monotonic()
            wait_for_clips(process, folder, seen)
            clip_seconds = min(time.monotonic() - began, 1)
            time.sleep(draw.uniform(0, 0.5 * clip_seconds))
        process.kill()
        process.join()
        for clip in folder.rglob("*.mp4"):
            assert clip.stat().st_size > 0
        seen = len(list(folder.rglob("*.mp4")))
    assert seen > 0
    print(f"{seen} of {count} clips were there after the last kill")
    code, _, err = run(*words, "-o", folder)
    assert code == 0, err
    assert hashes(folder) == whole
    assert not leftovers(folder)
    assert len(list(folder.rglob("*.mp4"))) == count
    assert run(*words, "-o", folder, "--verify")[0] == 0
    assert hashes(folder) == whole
