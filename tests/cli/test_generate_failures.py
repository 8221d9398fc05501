"""When `generate` cannot load, compute, encode, store or go on: one line, its exit code, nothing left."""

import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clip_commands import generate, run
from folder_names import names
from forked_program import start
from safetensors.torch import load_file, save_file
from small_disk import small_disk

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_models_that_cannot_be_loaded_exit_with_3(empty_folder: Path, tiny_model: Path) -> None:
    for model, expected in (("./nothing", "no such file or folder"), (empty_folder, "model_index.json")):
        result = run("generate", "a", "--model", model)
        assert result.exit_code == 3 and expected in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = generate(tiny_model, "a", "--frames", 10, "--context-length", 10)
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


@pytest.mark.full
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
    try:
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, stdout, stderr) == (code, b"", line)
    assert names(empty_folder) == set()


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.02, 0.1, 0.4])
@pytest.mark.parametrize("at", [0.3, 0.8, 1.5, 2.5, 3.5])
def test_two_quick_ctrl_c_show_no_traceback_wherever_the_program_is(
    tiny_model: Path, empty_folder: Path, at: float, gap: float
) -> None:
    """Symptom: a traceback out of torch. While it loads, works, cleans up, and while Python itself ends."""
    words = [sys.executable, "-m", "video_diffusion", *STOPPABLE, "--model", str(tiny_model)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        if caught >> (signal.SIGTERM - 1) & 1:  # the program has begun
            break
        time.sleep(0.02)
    time.sleep(at)
    for _ in range(2):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        time.sleep(gap)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode in {130, -signal.SIGINT}, stderr
    assert b"Traceback" not in stderr and b"Exception ignored" not in stderr, stderr.decode()
    assert not {"c.mp4", "c.json"} & names(empty_folder)


def test_kill_9_leaves_no_finished_name_and_the_next_run_works(tiny_model: Path, empty_folder: Path) -> None:
    program = start([*STOPPABLE, "--model", tiny_model])
    time.sleep(1)
    program.send_signal(signal.SIGKILL)
    assert program.end().returncode == -signal.SIGKILL
    assert not {"c.mp4", "c.json"} & names(empty_folder)
    part = empty_folder / f".c.mp4.{'0' * 16}.part"
    part.write_bytes(b"what a dead writer leaves")
    part.with_name(f"{part.name}.lock").touch()
    result = generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    assert result.exit_code == 0, result.stderr
    assert names(empty_folder) == {"c.mp4", "c.json"}


def test_a_disk_that_fills_up_exits_with_4_and_leaves_nothing(
    tiny_model: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate before the run is switched off, so that writing itself meets the full disk."""
    from video_diffusion.cli import outputs as output_checks

    monkeypatch.setattr(output_checks, "SPARE_BYTES", 0)
    disk = empty_folder / "disk"
    with small_disk(disk, "size=16k"):
        result = generate(tiny_model, "a red circle", "-o", "disk/c.mp4", "-q")
        assert result.exit_code == 4, result.output
        assert "No space left on device" in result.stderr and "disk/c." in result.stderr
        assert names(disk) == set()
