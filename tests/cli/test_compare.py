"""`compare` on a tiny real model: the folder it leaves, what is made again, refusals, foreign clips."""

import csv
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main
from video_diffusion.comparison.report import read_summary
from video_diffusion.video import write_video

PROMPTS = ["a red circle", "=1+1", "</script><b>[x](y)|z"]


def run(*words):
    result = CliRunner().invoke(main, ["compare", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def grid(tmp_path, tiny_model):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return [
        "--grid", "scheduler=[ddim, euler]", "--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "out",
        "--set", f"model={tiny_model}", "--set", "device=cpu", "--set", "num_inference_steps=1",
    ]  # fmt: skip


def rows(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_one_command_leaves_a_whole_folder_and_a_second_look_is_warned_of(tmp_path, grid):
    code, out, err = run(*grid)
    assert code == 0, err
    folder = tmp_path / "out"
    assert out.splitlines()[-1] == str(folder / "report.html")
    names = {path.name for path in folder.iterdir()}
    assert {
        "report.html",
        "summary.json",
        "summary.md",
        "metrics.csv",
        "config.yaml",
        "results.jsonl",
    } <= names
    summary = read_summary(folder)
    assert (summary.baseline, len(summary.clips), summary.looks) == ("scheduler=ddim", 6, ())
    assert summary.verdicts[0].outcome == "too few to tell"
    assert "3 prompts cannot reach 0.05" in summary.warnings[0] and summary.warnings[0] in err
    assert [arm.paired for arm in summary.arms] == [True, True]
    assert [(c.setting, c.baseline, c.value) for c in summary.arms[1].changes] == [
        ("scheduler", "ddim", "euler")
    ]
    for clip in summary.clips:
        assert (folder / clip.path).is_file() and (folder / clip.record).is_file()
        assert len(clip.series["flicker"]) == clip.num_frames == 5
        assert clip.noise_sha256 and clip.frames_sha256
    assert len(rows(folder)) == 6
    again = run(folder / "config.yaml", "-o", folder, "--seeds", "0-1", "--json")
    assert again[0] == 0
    answer = json.loads(again[1])
    assert answer["num_clips"] == 12 and answer["verdicts"][0]["arm"] == "scheduler=euler"
    assert "was looked at with 3 prompts × 1 seed before it had 3 prompts × 2" in answer["warnings"][0]
    assert len(rows(folder)) == 12
    assert read_summary(folder).looks == ("3 prompts × 1 seed",)
    dry = run(folder / "config.yaml", "-o", folder, "--dry-run")
    assert "12 clips, 12 of them done" in dry[2]
    check_tables(folder)


def check_tables(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["prompt"] for row in table} == {"a red circle", "'=1+1", "</script><b>[x](y)|z"}
    flicker = {
        (row["arm"], row["prompt"], row["seed"]): float(row["value"])
        for row in table
        if row["metric"] == "flicker"
    }
    assert len(flicker) == 12
    text = (folder / "summary.md").read_text()
    assert "| **flicker** |" in text and "<" not in text.replace("\\<", "")


@pytest.mark.full
def test_a_failing_arm_is_told_and_the_rest_is_compared(tmp_path, grid):
    grid[1] = "num_frames=[5, 4000]"
    grid += ["--set", "context_length=4000"]  # else long clips are made in windows
    code, out, err = run(*grid)
    assert code == 1
    assert "B (4000): 3 clips failed, and left out" in err
    assert out.startswith("Against num_frames=5, num_frames=4000: cannot be compared: flicker could be")
    summary = read_summary(tmp_path / "out")
    assert sum(bool(clip.error) for clip in summary.clips) == 3
    assert summary.verdict("num_frames=4000").outcome == "cannot be compared"


@pytest.mark.full
def test_fail_fast_stops_at_the_first_failing_clip(tmp_path, grid):
    grid[1] = "num_frames=[5, 4000]"
    grid += ["--set", "context_length=4000"]  # else long clips are made in windows
    code, out, err = run(*grid, "--fail-fast")
    assert (code, out) == (1, "")
    assert "1 failed, 5 left" in err and "1 failed; results.jsonl has each reason" in err
    assert [row["status"] for row in rows(tmp_path / "out")] == ["failed"]
    assert not (tmp_path / "out" / "report.html").exists()
    assert run(*grid)[0] == 1
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.full
def test_all_clips_are_made_again_on_request(tmp_path, grid):
    first, again, overwritten = run(*grid), run(*grid), run(*grid, "--overwrite")
    assert (first[0], again[0], overwritten[0]) == (0, 0, 0)
    assert "6 done (6 before)" in again[2] and "6 done (0 before)" in overwritten[2]
    assert first[1] == overwritten[1]
    assert len(rows(tmp_path / "out")) == 12
    assert "6 clips, about" in run(*grid, "--overwrite", "--dry-run")[2]
    assert "6 clips, 6 of them done" in run(*grid, "--dry-run")[2]


def test_a_dry_run_makes_nothing(tmp_path, grid):
    code, out, err = run(*grid, "--dry-run")
    assert (code, len(out.splitlines())) == (0, 6)
    assert "2 arms × 3 prompts × 1 seed = 6 clips; the baseline is scheduler=ddim" in err
    assert "6 clips, about" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "schedlr=[a]"], "no setting 'grid.schedlr'; did you mean 'scheduler'"),
        (["--grid", "scheduler"], "--grid: needs KEY=[A,B] (given 'scheduler')"),
        (["--baseline", "scheduler=heun"], "--baseline: baseline is no arm"),
        (["--seeds", "3-1"], "--seeds: seeds has the range 3-1"),
        (["--shard", "2/2"], "--shard: shard must be i/n"),
        (["--batch-size", "0"], "--batch-size: must be auto"),
        (["--set", "alpha=2"], "--set alpha: alpha must be a finite number"),
        (["--set", "sheduler=ddim"], "did you mean 'scheduler'"),
        (["a.yaml", "b.yaml"], "CONFIG: one file at a time"),
        (["--clips", "A=x"], "--grid: makes clips"),
        (["-o", __file__], "--out: " + __file__ + " is a file; name a folder"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(tmp_path, grid, words, message):
    code, out, err = run(*grid, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_nothing_to_compare_is_a_usage_error_without_torch(tmp_path):
    probe = (
        "import sys\nfrom video_diffusion.cli.main import main\n"
        "try:\n    main(['compare', '--grid', 'scheduler=[ddim, oiler]', '--prompts', sys.argv[1]])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    (tmp_path / "p.txt").write_text("a\n")
    ended = subprocess.run(
        [sys.executable, "-c", probe, tmp_path / "p.txt"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert ended.stdout.split() == ["2", "False"]
    assert "scheduler must be one of" in ended.stderr
    assert run()[0] == 2


def test_no_model_is_exit_3_and_a_full_disk_exit_4(tmp_path, grid):
    assert run(*grid, "--set", f"model={tmp_path}/nothing")[0] == 3
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        code, out, err = run(*grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (code, out) == (4, ""), err
    assert "the same command goes on from here" in err
    assert not list((tmp_path / "out" / "clips").iterdir())


def moving(path, speed, noise, seed=0, num_frames=7, times=1):
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, 48, 64, 3), 200.0)
    for index, frame in enumerate(frames):
        frame[12:28, 4 + speed * index : 22 + speed * index] = (30, 60, 180)
        frame[:] += noise * rng.normal()
    shown = frames.clip(0, 255).astype(np.uint8).repeat(times, axis=0)
    write_video(path, shown, Fraction(8), codec="libx264rgb")


@pytest.mark.full
def test_foreign_clips_are_paired_by_name_measured_once_and_judged(tmp_path):
    for label, noise in (("rough", 12.0), ("calm", 0.5)):
        (tmp_path / label / "sub").mkdir(parents=True)
        for number in range(6):
            moving(tmp_path / label / "sub" / f"c{number}.mp4", 4, noise, number)
    (tmp_path / "rough" / "alone.mp4").write_bytes(b"not a video")
    words = ["--clips", f"rough={tmp_path}/rough", f"calm={tmp_path}/calm", "-o", tmp_path / "out"]
    code, out, err = run(*words)
    assert code == 0, err
    assert "calm wins: flicker falls by" in out and "prompt alignment was not measured" in out
    summary = read_summary(tmp_path / "out")
    assert summary.verdicts[0].outcome == "wins"
    assert summary.arms[1].paired is None
    assert summary.clips[0].path == "../rough/sub/c0.mp4" and summary.clips[0].prompt == "sub/c0"
    assert any("without a partner: 1 name." in note for note in summary.notes)
    assert len(rows(tmp_path / "out")) == 12
    (tmp_path / "calm" / "sub" / "c0.mp4").write_bytes(b"not a video")
    code, _, err = run(*words, "--set", "margins.motion=0.3")
    assert code == 1 and "1 of 12 clips could not be measured" in err
    assert len(rows(tmp_path / "out")) == 13
    assert read_summary(tmp_path / "out").metric("flicker").differences[0].num_lost == 1


@pytest.mark.full
def test_held_frames_do_not_make_the_worst_clips_the_best(tmp_path):
    """Each frame shown three times once divided flicker by up to 1,600 and made its arm the winner."""
    for label, noise, times in (("steady", 3.0, 1), ("rough", 12.0, 3)):
        (tmp_path / label).mkdir()
        for number in range(6):
            moving(tmp_path / label / f"c{number}.mp4", 4, noise, number, times=times)
    words = ["--clips", f"steady={tmp_path}/steady", f"rough={tmp_path}/rough", "-o", tmp_path / "out"]
    code, out, err = run(*words)
    assert code == 0, err
    assert "rough flickers more" in out
    notes = read_summary(tmp_path / "out").notes
    assert any("Frames are held in 6 clips; every measure is that of the distinct frames" in n for n in notes)


@pytest.mark.full
def test_shards_share_a_folder_and_clips_with_records_pair_by_prompt_and_seed(tmp_path, grid):
    code, out, err = run(*grid, "--seeds", "0-1", "--shard", "0/2")  # the first clip of each pair: ddim's
    assert (code, out) == (0, "") and "6 clips left to other processes" in err
    assert not (tmp_path / "out" / "summary.json").exists()
    shutil.copytree(tmp_path / "out" / "clips", tmp_path / "ddim")
    run(*grid, "--seeds", "0-1", "--shard", "1/2")
    (tmp_path / "euler").mkdir()
    for clip in read_summary(tmp_path / "out").clips:
        if clip.arm == "scheduler=euler":
            shutil.copy(tmp_path / "out" / clip.path, tmp_path / "euler")
    code, out, err = run(
        "--clips", f"A={tmp_path}/ddim", f"B={tmp_path}/euler", "-o", tmp_path / "two", "--dry-run"
    )
    assert code == 0 and len(out.splitlines()) == 12
    assert "by prompt and seed, from their records" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clips", "A=one"], "needs 2 or more folders"),
        (["--clips", "A=one", "A=two"], "A stands twice"),
        (["--clips", "A=one", "B=nowhere"], "no such folder"),
        (
            ["--clips", "A=one", "B=two", "--overwrite"],
            "--overwrite: makes clips, but --clips compares those",
        ),
        (["--clips", "A=one", "two"], "must be LABEL=FOLDER"),
        (["--clips", "A=one", "B=empty"], "holds no clip"),
        (["--clips", "A=one", "B=two"], "has a partner of the same name"),
        (["--clips", "A=one", "B=double"], "holds two clips named 'a'"),
        (["--clips", "A=one", "B=one2", "--set", "seed=3"], "alpha and margins can be set"),
    ],
)
def test_folders_that_cannot_be_compared_are_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.mp4", "two/b.mp4", "double/a.mp4", "double/a.webm", "one2/a.mp4", "empty/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    code, _, err = run(*words)
    assert code == 2
    assert message in err


def test_the_baseline_is_held_against_itself(tmp_path, grid):
    code, _, err = run(*grid, "--a-a", "--dry-run", "--json")
    assert code == 0
    assert "2 arms × 3 prompts × 1 seed = 6 clips; the baseline is scheduler=ddim" in err


@pytest.mark.slow
def test_kills_at_any_time_leave_the_same_clips_and_the_same_comparison(tmp_path, grid):
    """12 × kill -9 while clips are made and results written; the end equals an unbroken run."""
    grid += ["--seeds", "0-5", "--quiet"]
    assert run(*grid)[0] == 0
    whole = read_summary(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "unbroken")
    command = [sys.executable, "-m", "video_diffusion", "compare", *map(str, grid)]
    for kill in range(12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = len(list((tmp_path / "out").glob("clips/*.mp4")))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "out").glob("clips/*.mp4"))) > seen:
                break
            time.sleep(0.02)
        time.sleep(0.11 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in ("summary.json", "config.yaml", "metrics.csv"):
            assert not (tmp_path / "out" / name).exists() or (tmp_path / "out" / name).stat().st_size > 100
    assert run(*grid)[0] == 0
    again = read_summary(tmp_path / "out")
    assert [clip.frames_sha256 for clip in again.clips] == [clip.frames_sha256 for clip in whole.clips]
    assert again.metrics == whole.metrics and again.verdicts == whole.verdicts
    assert not list((tmp_path / "out").rglob(".*part"))
