"""`generate`, `rerun` and `inspect` on a tiny real model: files, records, pictures, what is printed where."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from video_diffusion.cli.main import main
from video_diffusion.io import frames_sha256, read_record, read_video


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def generate(model: Path, prompt: str, *words: object) -> Result:
    return run("generate", prompt, "--model", model, *words)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_clip_with_record_sheet_and_strip(tiny_model: Path, empty_folder: Path) -> None:
    result = generate(
        tiny_model, "a red circle", "-o", "c.mp4", "--seed", 7, "--sheet", "s.png", "--strip", "t.png"
    )
    assert (result.exit_code, result.stdout) == (0, "c.mp4\n"), result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("seed 7 · flicker ") and "motion" in line and "5 frames of 48x32 at 8 fps" in line
    assert names(empty_folder) == {"c.mp4", "c.json", "s.png", "t.png"}
    video, record = read_video("c.mp4"), read_record("c.mp4")
    assert video.frames.shape == (5, 32, 48, 3) and video.fps == 8
    assert record == read_record("c.json")
    own = record.settings
    assert (own.prompt, own.seed, own.num_frames, own.num_inference_steps) == ("a red circle", 7, 5, 3)
    assert {"raw_flicker", "flicker", "motion", "sharpness"} <= set(record.measures)
    assert record.model.weights_sha256 and record.timings["denoise"] > 0
    with Image.open("s.png") as sheet, Image.open("t.png") as strip:
        assert min(*strip.size, *sheet.size) > 300


def test_json_has_one_object_with_everything(tiny_model: Path) -> None:
    result = generate(
        tiny_model,
        "a red circle",
        "-o",
        "c.mp4",
        "--json",
        "--size",
        "24x16",
        "--frames",
        3,
        "--fps",
        "30000/1001",
    )
    assert (result.exit_code, result.stderr) == (0, "")
    clip = json.loads(result.stdout)
    assert clip["path"] == "c.mp4" and clip["prompt"] == "a red circle" and clip["seed"] == 0
    assert (clip["num_frames"], clip["width"], clip["height"]) == (3, 24, 16)
    assert clip["fps"] == pytest.approx(29.97, abs=0.001) and clip["seconds"] > 0
    assert set(clip["metrics"]["flicker"]) == {"value", "unit", "status"}
    assert re.fullmatch("[0-9a-f]{64}", clip["frames_sha256"])
    assert clip["frames_sha256"] == read_record("c.mp4").frames_sha256


def test_the_recorded_hash_is_that_of_the_frames_before_encoding(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "--codec", "libx264rgb", "-q")
    assert frames_sha256(read_video("c.mp4").frames) == read_record("c.mp4").frames_sha256


def test_a_seed_is_a_clip_and_rerun_finds_it_identical(tiny_model: Path) -> None:
    clips = {}
    for name, seed in (("one.mp4", 7), ("two.mp4", 7), ("three.mp4", 8)):
        generate(tiny_model, "a red circle", "-o", name, "--seed", seed, "-q")
        clips[name] = read_record(name).frames_sha256
    assert clips["one.mp4"] == clips["two.mp4"] != clips["three.mp4"]
    result = run("rerun", "one.mp4", "-q", "-o", "again.webm")
    assert (result.exit_code, result.stdout) == (0, "identical\n")
    assert len(read_video("again.webm").frames) == 5


def changed_record(name: str, **changes: Any) -> None:
    record = json.loads(Path("c.json").read_text())
    for key, value in changes.items():
        holder, _, field = key.rpartition("__")
        (record[holder] if holder else record)[field] = value
    Path(name).write_text(json.dumps(record))


def test_rerun_says_why_a_clip_is_not_the_same(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    changed_record("x.json", frames_sha256="0" * 64, versions__torch="1.0", model__weights_sha256="1" * 64)
    result = run("rerun", "x.json", "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 1 and answer["identical"] is False
    weights, torch = answer["differences"]
    assert weights.startswith("other weights: 111111111111 then, ") and torch.startswith(
        "other version of torch: 1.0 then, "
    )
    changed_record("y.json", frames_sha256="0" * 64)
    result = run("rerun", "y.json", "-q")
    assert (result.exit_code, result.stdout) == (1, "different\n")
    assert (
        result.stderr
        == "same weights, versions, processor and device as recorded: the record may have been changed\n"
    )


def test_rerun_fetches_nothing_because_of_a_record(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    changed_record("x.json", settings__model="some\x1b[2Jbody/model")
    result = run("rerun", "x.json")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --model: the record names some\\x1b[2Jbody/model, which is not here; say where it is, "
        "or give --model some\\x1b[2Jbody/model to fetch it\n"
    )
    assert run("rerun", "x.json", "--model", tiny_model, "-q").exit_code == 0


def test_records_stay_out_of_the_file_on_request(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "--no-embed-metadata", "-q")
    assert b"red circle" not in Path("c.mp4").read_bytes()
    assert read_record("c.mp4").settings.prompt == "a red circle"  # from the sidecar


def test_names_come_from_prompt_and_seed_and_never_collide(tiny_model: Path, empty_folder: Path) -> None:
    for expected in ("a-red-circle-7.mp4", "a-red-circle-7-2.mp4"):
        result = generate(tiny_model, "A red/circle!", "--seed", 7, "-q")
        assert (result.stdout, result.stderr) == (f"{expected}\n", "")
    assert names(empty_folder) == {f"a-red-circle-7{part}" for part in (".mp4", ".json", "-2.mp4", "-2.json")}


def test_overwrite_replaces_clip_record_and_pictures(tiny_model: Path) -> None:
    for seed in (1, 2):
        result = generate(
            tiny_model, "a red circle", "-o", "c.mp4", "--sheet", "s.png", "--seed", seed, "--overwrite"
        )
        assert result.exit_code == 0, result.stderr
    assert read_record("c.mp4").settings.seed == read_record("c.json").settings.seed == 2


@pytest.mark.parametrize(
    "out, words", [("f/", ()), ("c.gif", ()), ("c.webm", ()), ("c.webp", ()), ("f", ("--codec", "png"))]
)
def test_other_formats(tiny_model: Path, out: str, words: tuple[str, ...]) -> None:
    result = generate(tiny_model, "a red circle", "-o", out, "-q", *words)
    assert result.exit_code == 0, result.stderr
    assert len(read_video(out).frames) == 5
    assert read_record(out).frames_sha256


def test_a_config_that_was_written_runs_as_it_is(tiny_model: Path) -> None:
    Path("clip.yaml").write_text(f"prompt: a red circle\nmodel: {tiny_model}\nseed: 7\nnum_frames: 3\n")
    result = run("generate", "--config", "clip.yaml", "-q", "-o", "c.mp4")
    assert result.exit_code == 0, result.stderr
    assert (read_record("c.mp4").settings.seed, len(read_video("c.mp4").frames)) == (7, 3)


def test_hostile_prompts_are_stored_verbatim_and_shown_escaped(tiny_model: Path) -> None:
    prompt = "a [/] \x1b[2J\u202e red\nçircle 漢"
    result = generate(tiny_model, prompt, "-o", "c.mp4", "--sheet", "s.png")
    assert result.exit_code == 0, result.stderr
    assert read_record("c.mp4").settings.prompt == prompt
    shown = run("inspect", "c.mp4").stdout
    assert "prompt: a [/] \\x1b[2J\\u202e red\\nçircle 漢\n" in shown
    for text in (result.output, shown):
        assert "\x1b" not in text and "\u202e" not in text


def test_unknown_words_are_named_with_the_known_ones(tiny_model: Path) -> None:
    result = generate(tiny_model, "red dragon, owl", "-o", "c.mp4", "-q")
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "warning: this model never learned 'dragon', 'owl'; the words it knows: a, circle, red; "
    )
    assert "--model stable-diffusion-v1-5/stable-diffusion-v1-5" in line


def test_warnings_quote_no_more_than_the_beginning_of_a_long_word_or_end(tiny_model: Path) -> None:
    for prompt in ("x" * 5000, "red " * 1000):
        result = generate(tiny_model, prompt, "-o", "c.mp4", "-q", "--overwrite")
        assert result.exit_code == 0
        assert 0 < max(len(line) for line in result.stderr.splitlines()) < 400


def test_a_long_prompt_warns_of_what_is_lost(tiny_model: Path) -> None:
    result = generate(tiny_model, "a red circle " * 4, "-o", "c.mp4", "-q")
    assert result.exit_code == 0
    assert any(
        "dropped its end" in line and line.startswith("warning: ") for line in result.stderr.splitlines()
    )


def test_a_prompt_that_starts_with_a_dash_goes_after_two(tiny_model: Path) -> None:
    result = run("generate", "--model", tiny_model, "-q", "--", "-a red")
    assert (result.exit_code, result.stdout) == (0, "a-red-0.mp4\n")


def test_models_that_cannot_be_loaded_exit_with_3(empty_folder: Path, tiny_model: Path) -> None:
    for model, expected in (("./nothing", "no such file or folder"), (empty_folder, "model_index.json")):
        result = run("generate", "a", "--model", model)
        assert result.exit_code == 3 and expected in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = generate(tiny_model, "a", "--frames", 10)
    assert result.exit_code == 2 and "9" in result.stderr.splitlines()[-1]
    assert names(empty_folder) == set()


def test_a_device_that_is_not_here_exits_with_4(tiny_model: Path) -> None:
    result = generate(tiny_model, "a", "--device", "cuda:99")
    assert result.exit_code == 4 and len(result.stderr.splitlines()) == 1 and "cpu" in result.stderr


def test_non_finite_latents_exit_with_1_and_leave_nothing(tiny_model: Path, empty_folder: Path) -> None:
    """Weights so large that float16 overflows."""
    shutil.copytree(tiny_model, empty_folder / "model")
    (file,) = (empty_folder / "model" / "unet").glob("*.safetensors")
    weights = load_file(file)
    save_file(
        {name: weight * (1e30 if name == "conv_out.weight" else 1) for name, weight in weights.items()}, file
    )
    result = run("generate", "a red circle", "--model", "model", "-o", "c.mp4", "--guidance", 50)
    assert result.exit_code == 1, result.output
    assert "at step" in result.stderr.splitlines()[-1]
    assert names(empty_folder) == {"model"}


def test_inspect_shows_clips_models_adapters_and_weights(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q", "--fps", "23.976")
    clip = json.loads(run("inspect", "c.mp4", "--json").stdout)
    assert (clip["kind"], clip["num_frames"], clip["fps"], clip["codec"]) == ("clip", 5, "2997/125", "h264")
    assert clip["record"]["settings"]["fps"] == "2997/125"
    model = json.loads(run("inspect", tiny_model, "--json").stdout)
    assert (model["kind"], model["pipeline"]) == ("model", "AnimateDiffPipeline")
    assert model["weights_sha256"] == clip["record"]["model"]["weights_sha256"]
    adapter = json.loads(run("inspect", tiny_model / "motion_adapter", "--json").stdout)
    assert (adapter["class"], adapter["norm_scope"]) == ("MotionAdapter", "clip")
    weights = json.loads(run("inspect", next((tiny_model / "unet").glob("*.safetensors")), "--json").stdout)
    assert weights["num_parameters"] == model["components"]["unet"]["num_parameters"] > 10_000
    assert "flicker: " in run("inspect", "c.json").stdout


def test_inspect_knows_the_embedded_model_by_its_name() -> None:
    assert json.loads(run("inspect", "embedded", "--json").stdout)["kind"] == "model"


def test_inspect_of_what_is_none_of_these() -> None:
    Path("text.mp4").write_text("no video")
    Path("w.safetensors").write_bytes(b"\xff" * 100)
    Path("r.json").write_text("{}")
    for name, code in (("none.mp4", 2), ("text.mp4", 2), ("w.safetensors", 3), ("r.json", 2)):
        result = run("inspect", name)
        assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (code, 1, ""), name


def test_a_clip_without_a_record_is_still_shown(tiny_model: Path) -> None:
    from fractions import Fraction

    from video_diffusion.io import write_video

    write_video(
        "c.mp4", np.zeros((3, 16, 24, 3), np.uint8), Fraction(8), {"video_diffusion": '{"\\u001b[2J": 1}'}
    )
    result = run("inspect", "c.mp4")
    assert result.exit_code == 0 and "num_frames: 3" in result.stdout
    assert "record_problem: c.mp4 (embedded record): not a clip record" in result.stdout
    assert "\x1b" not in result.stdout


def test_doctor_finds_a_machine_that_can_make_clips() -> None:
    result = run("doctor", "--json")
    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["problems"]) == (0, [])
    assert facts["codecs"]["libx264"] == "works" and "cpu" in facts["devices"]
    assert {"torch", "python", "av"} <= set(facts["versions"]) and Path(facts["model_cache"]).is_absolute()


def test_doctor_says_what_does_not_work(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = empty_folder / "ffmpeg"
    broken.write_text("#!/bin/sh\necho 'ffmpeg version 1' \necho broken >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    result = run("doctor")
    assert result.exit_code == 4
    assert "problem: codec libx264: the encoder failed with status 1: broken" in result.stdout


def test_an_encoder_that_does_not_work_here_is_found_before_loading(
    tiny_model: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = empty_folder / "ffmpeg"
    broken.write_text("#!/bin/sh\necho Unknown encoder >&2\nexit 8\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    result = generate(tiny_model, "a red circle", "-o", "c.mp4")
    assert result.exit_code == 4
    assert result.stderr == (
        "error: --codec: libx264 does not work here (the encoder failed with status 8: Unknown encoder); "
        "usable are webp, png\n"
    )
    assert generate(tiny_model, "a red circle", "-o", "c.webp", "-q").exit_code == 0


def test_rerun_computes_with_as_many_threads_as_the_record_says(tiny_model: Path) -> None:
    import torch

    before = torch.get_num_threads()
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    assert read_record("c.mp4").num_threads == before
    changed_record("x.json", num_threads=3)
    try:
        result = run("rerun", "x.json", "--json", "-o", "again.mp4")
        assert read_record("again.mp4").num_threads == 3, result.output
    finally:
        torch.set_num_threads(before)


def test_a_flat_clip_is_warned_of(tiny_model: Path, empty_folder: Path) -> None:
    """A decoder that paints nothing: its last layer is zero."""
    shutil.copytree(tiny_model, empty_folder / "model")
    (file,) = (empty_folder / "model" / "vae").glob("*.safetensors")
    weights = load_file(file)
    save_file({name: weight * ("decoder.conv_out" not in name) for name, weight in weights.items()}, file)
    result = run("generate", "a red circle", "--model", "model", "-o", "c.mp4", "-q")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: every frame is the same flat colour; try another seed")


STOPPABLE = ["generate", "a red circle", "-o", "c.mp4", "--frames", "9", "--size", "64x64", "--steps", "1000"]


def started(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A real process that is denoising: with `--steps 1000` it goes on for a while."""
    words = [sys.executable, "-m", "video_diffusion", *STOPPABLE, "--model", str(model)]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 120
    while "libtorch_cpu" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="watches /proc for the moment when torch is loaded")
@pytest.mark.parametrize(
    "number, code, line",
    [(signal.SIGINT, 130, b"error: stopped; nothing unfinished was kept\n"),
     (signal.SIGTERM, 143, b"error: terminated; nothing unfinished was kept\n"),
     (signal.SIGHUP, 143, b"error: terminated; nothing unfinished was kept\n")],
)  # fmt: skip
def test_signals_end_a_run_in_one_line_and_leave_nothing(
    tiny_model: Path, empty_folder: Path, number: signal.Signals, code: int, line: bytes
) -> None:
    process = started(tiny_model, empty_folder)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout, stderr) == (code, b"", line)
    assert names(empty_folder) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="watches /proc for the moment when torch is loaded")
def test_kill_9_leaves_no_finished_name_and_the_next_run_works(tiny_model: Path, empty_folder: Path) -> None:
    process = started(tiny_model, empty_folder)
    process.kill()
    process.communicate()
    assert not {"c.mp4", "c.json"} & names(empty_folder)
    (empty_folder / f".c.mp4.{process.pid}.part").write_bytes(b"what a dead writer leaves")
    result = generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    assert result.exit_code == 0, result.stderr
    assert names(empty_folder) == {"c.mp4", "c.json"}


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux"
)
def test_a_disk_that_fills_up_exits_with_4_and_leaves_nothing(
    tiny_model: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate before the run is switched off, so that writing itself meets the full disk."""
    from video_diffusion.cli import output_checks

    monkeypatch.setattr(output_checks, "SPARE_BYTES", 0)
    disk = empty_folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount: {mounted.stderr.decode().strip()}")
    try:
        result = generate(tiny_model, "a red circle", "-o", "disk/c.mp4", "-q")
        assert result.exit_code == 4, result.output
        assert "No space left on device" in result.stderr and "disk/c." in result.stderr
        assert names(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
