"""Every command whose stdout cannot be written says so, with code 4, and has lost nothing of its work."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked_program import forked
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.video import read_record, read_video

FULL = Path("/dev/full")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not FULL.exists(), reason="no device that is always full"),
]
SIZES = "--frames 2 --size 24x16 --steps 1 --device cpu --model model"
COMPARED = "compare --grid guidance_scale=[1,2] --prompts prompts.txt --seeds 0-1 --set model=model"


def name_of(words: str) -> str:
    return words.partition(" --model")[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a clip, a job file, a training's configuration."""
    folder = tmp_path_factory.mktemp("full")
    write_tiny_model(folder / "model")
    for name in ("clips", "checked"):
        write_tiny_clips(folder / name)
    (folder / "prompts.txt").write_text("a red circle\n")
    (folder / "train.yaml").write_text(
        "data: clips\nmodel: model\nnum_steps: 1\nbatch_size: 2\ndevice: cpu\nvalidation: {every: 0}\n"
    )
    done = forked(f"generate red -o clip.mp4 {SIZES}".split(), folder)
    assert done.returncode == 0, done.stderr
    return folder


def program(home: Path, words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, whose Python flushes and closes its streams at its end."""
    command = [sys.executable, "-m", "video_diffusion", *words.split()]
    with FULL.open("w") as file:
        return subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, text=True, cwd=home, check=False, timeout=300
        )


def assert_told(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 4, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert errors[-1] == "error: standard output: No space left on device", done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "generate --help", "models", "models --json", "doctor", "doctor --json",
        f"generate red -o one.mp4 {SIZES}", f"generate red -o two.mp4 --json {SIZES}",
        f"generate --jobs prompts.txt -o dry --dry-run --json {SIZES}",
        "measure clip.mp4", "measure clip.mp4 clip.mp4", "measure clip.mp4 --json", "measure clip.mp4 --csv",
        "inspect clip.mp4", "inspect model --json", "rerun clip.mp4", "rerun clip.mp4 --json",
        f"{COMPARED} -o compared --set size=24x16", f"{COMPARED} -o json --json --set size=24x16",
        "compare --clips a=clips --clips b=clips -o given", "diagnose clip.mp4 --json", "diagnose clip.mp4",
        "data make made --clips 1 --size 32x32", "data check checked --workers 0",
        "data check checked --json", "train train.yaml -o run", "train train.yaml -o json_run --json",
        "convert model/motion_adapter adapter.safetensors --to animatediff",
    ],
    ids=name_of,
)  # fmt: skip
def test_every_command_names_the_stdout_that_is_full(home: Path, words: str) -> None:
    assert_told(forked(words.split(), home, FULL))


@pytest.mark.parametrize(
    "words", ["models", f"generate red --seeds 0-1 -o batch {SIZES}", "measure clip.mp4 --json"], ids=name_of
)
def test_nothing_is_said_of_it_when_python_ends(home: Path, words: str) -> None:
    assert_told(program(home, words))


def test_what_was_made_before_a_full_stdout_stays(home: Path) -> None:
    done = forked(f"generate red --seed 3 -o kept.mp4 {SIZES}".split(), home, FULL)
    assert done.returncode == 4, done.stderr
    assert read_record(home / "kept.mp4").settings.seed == 3
    assert len(read_video(home / "kept.mp4").frames) == 2
