"""`data check`: what it prints, writes and exits with; a folder that `data make` made passes as it is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from painted_clips import paint_video
from PIL import Image

from video_diffusion.cli.main import main
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.clips import open_sources
from video_diffusion.training.data import read_manifest


def data(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, words)])


def check(*words: object) -> Result:
    return data("check", *words, "--workers", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good clips, one of them short, and one without a caption."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, num_frames in (("long", 48), ("short", 12), ("silent", 24)):
        paint_video(folder / f"{name}.mp4", num_frames)
        (folder / f"{name}.txt").write_text(f"a {name} clip")
    (folder / "silent.txt").unlink()
    return folder


def test_what_data_make_makes_passes_as_it_is(tmp_path: Path) -> None:
    assert data("make", tmp_path / "set", "--clips", 3, "--size", "48x32", "-q").exit_code == 0
    result = check(tmp_path / "set", "--strict")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "training clips per epoch: 3 of 16 frames at 8 fps" in result.stdout
    truth = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").read_text().splitlines()]
    found = read_manifest(tmp_path / "set")
    assert [(entry.path, entry.caption) for entry in found] == [
        (row["file_name"], row["caption"]) for row in truth
    ]
    assert {(entry.num_frames, entry.fps, entry.width, entry.height) for entry in found} == {(16, 8, 48, 32)}
    assert data("make", tmp_path / "set", "--clips", 4, "--size", "48x32", "-q").exit_code == 0
    assert "4 files, 1 of them decoded now" in check(tmp_path / "set").stdout


def test_summary_rejects_and_sheet(folder: Path) -> None:
    result = check(folder)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{folder}/manifest.jsonl: 2 clips, 2.5 s of video",
        f"{folder}/rejects.jsonl: 1 rejected",
        "read as pairs: 2 files, 2 of them decoded now",
        "  2 × colours are not tagged; read as BT.601",
        "length",
        "  0 to 1 s  ############################## 1",
        "  2 to 4 s  ############################## 1",
        "size",
        "  48x32  ############################## 2",
        "fps",
        "  24  ############################## 2",
        "training clips per epoch: 1 of 16 frames at 8 fps",
        "  1 clips cannot be used so",
    ]
    assert result.stderr.splitlines() == [
        "rejected: silent.mp4: has no caption: no silent.txt; --captionless takes it without",
        "not trained on: short: lasts 0.500 s, shorter than 16 frames at 8 fps (1.917 s); "
        "train on fewer frames or a higher fps, or loop short clips",
    ]
    assert [entry.id for entry in read_manifest(folder)] == ["long", "short"]
    sheet = np.asarray(Image.open(folder / "contact-sheet.png"))
    assert sheet.ndim == 3 and sheet.shape[1] > 400 and len(np.unique(sheet)) > 4
    assert check(folder).stdout.count("0 of them decoded now") == 1  # the sheet is no new picture


def test_json_and_the_count_for_other_settings(folder: Path) -> None:
    def count(*words: object) -> int:
        result = check(folder, "--json", "-q", *words)
        assert result.exit_code == 0 and result.stderr in {"", nothing}
        return json.loads(result.stdout)["training"]["clips_per_epoch"]

    nothing = "warning: no clip gives 99 frames at 8 fps; choose other --num-frames or --fps\n"
    assert count() == 1
    assert count("--num-frames", 4) == 2
    assert count("--num-frames", 4, "--windows", "all") == 5
    assert count("--too-short", "loop") == 2
    assert count("--num-frames", 99) == 0
    summary = json.loads(check(folder, "--json", "-q", "--size", "32x32", "--size", "48x32").stdout)
    assert summary["training"]["sizes"] == {"48x32": 1} and summary["rejected"] == 1
    assert list(summary["training"]["reasons"]) == ["short"]


def test_the_count_is_that_of_training(folder: Path) -> None:
    check(folder)
    for words, clips in (
        (["--num-frames", "4", "--held-out", "1"], {"num_frames": 4, "held_out": 1}),
        (["--num-frames", "4", "--windows", "all"], {"num_frames": 4, "windows": "all"}),
        (["--fps", "48", "--repeat-frames"], {"fps": "48", "repeat_frames": True}),
        (["--size", "96x64", "--allow-upscaling"], {"width": 96, "height": 64, "allow_upscaling": True}),
        (["--too-short", "loop"], {"too_short": "loop"}),
    ):
        asked = check(folder, "--json", "-q", *words)
        settings = TrainingSettings.model_validate({"data": str(folder), "clips": clips})
        defaults = {"num_frames": 16, "height": 32, "width": 48, "fps": "8"}
        sources = open_sources(settings, defaults)
        training = json.loads(asked.stdout)["training"]
        assert [training["clips_per_epoch"]] == list(sources.num_clips.values()), words
        assert training["held_out"] == sources.num_held_out[0]


def test_strict_stops_a_script(folder: Path) -> None:
    result = check(folder, "--strict", "-q")
    counts = "1 rejected, 1 of no use for such training clips"
    assert (result.exit_code, result.stderr) == (1, f"error: {folder}: {counts}; --strict allows none\n")
    assert len(read_manifest(folder)) == 2
    (folder / "silent.mp4").unlink()
    assert check(folder, "--strict", "-q").exit_code == 1
    assert check(folder, "--strict", "-q", "--num-frames", 4).exit_code == 0


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["nowhere"], 2, "nowhere: no such folder; name a folder of clips"),
        ([".", "--fps", "0"], 2, "--fps: must be a number or a fraction"),
        ([".", "--size", "64"], 2, "--size: must be WIDTHxHEIGHT"),
        ([".", "--format", "openvd"], 2, "--format: 'openvd' is not one of"),
        ([".", "--format", "webvid"], 2, ".: no list of webvid in it; name it with --list"),
        ([".", "--list", "gone.csv"], 2, "gone.csv: no such file; name a list of clips"),
        (["."], 1, ".: no clip can be used; put name.mp4 and its caption name.txt into it"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = check(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert result.stderr.startswith(f"error: {message}"), result.stderr


def test_names_and_tags_are_inert(folder: Path) -> None:
    name = "\x1b[2J\x1b[31mred"
    shutil.copy(folder / "long.mp4", folder / f"{name}.mp4")
    result = check(folder)
    assert "\x1b" not in result.output and "\\x1b[2J" in result.stderr


def test_many_reasons_are_cut_short(folder: Path) -> None:
    for number in range(25):
        (folder / f"n{number:02}.mp4").write_bytes(b"")
    result = check(folder)
    assert result.stderr.count("rejected: ") == 21 and "rejected: 6 more; see rejects.jsonl" in result.stderr


def test_a_read_only_folder_is_the_machines_fault(folder: Path) -> None:
    """Its own files stand as folders there, which nobody can write over."""
    (folder / ".data-check.jsonl").mkdir()
    result = check(folder)
    assert result.exit_code == 4
    assert "Is a directory" in result.stderr and not (folder / "manifest.jsonl").exists()


def test_help_comes_without_torch(folder: Path) -> None:
    run = (
        "import sys; from video_diffusion.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: "
    )
    code = f"{run}pass\n"
    for words in (["--help"], [str(folder), "--workers", "0"]):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}assert 'torch' not in sys.modules", "data", "check", *words],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.slow
def test_interrupted_it_ends_its_processes_and_goes_on_later(folder: Path) -> None:
    for number in range(40):
        shutil.copy(folder / "long.mp4", folder / f"copy{number}.mp4")
        (folder / f"copy{number}.txt").write_text("a copy")
    words = [sys.executable, "-m", "video_diffusion", "data", "check", str(folder), "--workers", "2"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    known = folder / ".data-check.jsonl"
    while not known.exists() or known.stat().st_size == 0:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"the same command goes on where this one stopped" in stderr
    assert not (folder / "manifest.jsonl").exists()
    result = check(folder, "--json")
    assert 0 < json.loads(result.stdout)["decoded_now"] < 42
    assert len(read_manifest(folder)) == 42
