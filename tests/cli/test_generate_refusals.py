"""What `generate` refuses before a model is loaded: one line, its exit code, and torch not imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from nobody import as_nobody
from small_disk import small_disk

from video_diffusion.cli.main import main

pytestmark = pytest.mark.usefixtures("empty_folder")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["generate", *words])


def check(result: Result, code: int, expected: str) -> None:
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"error: {expected}"), lines[0]
    assert (result.exit_code, result.stdout) == (code, "")


WHOLE_SEED = "--seed: seed must be a whole number from 0 to 9223372036854775807"
WHOLE_FRAMES = "--frames: num_frames must be a whole number from 1 to 4096"
EIGHTS = "must be a whole number, a multiple of 8, from 16 to 8192"
FPS = "--fps: fps must be a number or a fraction from 0.1 to 240, such as 24, 23.976 or 30000/1001"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--frams", "3"], "--frams: no such option; did you mean --frames?"),
        (["--zzz"], "--zzz: no such option; a value that starts with - goes after --"),
        (["--frames", "eight"], f"{WHOLE_FRAMES} (given 'eight')"),
        (["--frames", "0"], f"{WHOLE_FRAMES} (given 0)"),
        (["--frames", "-1"], f"{WHOLE_FRAMES} (given -1)"),
        (["--frames", "1e9"], f"{WHOLE_FRAMES} (given 1000000000.0)"),
        (["--num-frames", "16.5"], f"{WHOLE_FRAMES} (given 16.5)"),
        (["--frames", ""], f"{WHOLE_FRAMES} (given '')"),
        (["--seed", "-1"], f"{WHOLE_SEED} (given -1)"),
        (["--seed", str(2**64)], f"{WHOLE_SEED} (given {2**64})"),
        (["--seed", "1.5"], f"{WHOLE_SEED} (given 1.5)"),
        (["--seed", "abc"], f"{WHOLE_SEED} (given 'abc')"),
        (["--seed", "true"], f"{WHOLE_SEED} (given 'true')"),
        (["--size", "513x511"], f"--size: height {EIGHTS} (given 511)"),
        (["--size", "8x8"], f"--size: height {EIGHTS} (given 8)"),
        (["--size", "100000x100000"], f"--size: height {EIGHTS} (given 100000)"),
        (["--size", "0x0"], f"--size: height {EIGHTS} (given 0)"),
        (["--size", "512"], "--size: must be WIDTHxHEIGHT in pixels, such as 64x48 (given '512')"),
        (["--fps", "0"], f"{FPS} (given '0')"),
        (["--fps", "nan"], f"{FPS} (given 'nan')"),
        (["--fps", "1000000"], f"{FPS} (given '1000000')"),
        (["--steps", "0"], "--steps: num_inference_steps must be a whole number from 1 to 1000 (given 0)"),
        (["--guidance", "inf"], "--guidance-scale: guidance_scale must be a finite number from 0 to 50"),
        (["--scheduler", "ddmi"], "--scheduler: scheduler must be one of ddim, ddpm, euler, euler_a"),
        (["--dtype", "float8"], "--dtype: dtype must be one of float32, float16, bfloat16, float64"),
        (["--dtype", "float16", "--device", "cpu"], "--dtype: float16 on the CPU is slow and overflows; use"),
        (["--device", "gpu"], "--device: device must be auto, cpu, cuda, cuda:N"),
        (["--model", ""], "--model: model is empty"),
        (["--crf", "99"], "--crf: crf for libx264 is from 0 (best) to 51 (given 99)"),
        (["--crf", "x"], "--crf: 'x' is not a valid integer"),
        (["--codec", "h264_nvenc"], "--codec: codec is one of libx264, libx264rgb, libvpx-vp9, libsvtav1"),
        (["--pixel-format", "rgb"], "--pixel-format: pixel_format for libx264 is yuv420p, yuv444p"),
        (["-o", "x.avi"], "--out: the suffix of 'x.avi' names no format ('.avi'); use .mp4, .mov"),
        (["-o", "x.xyz"], "--out: the suffix of 'x.xyz' names no format"),
        (["-o", "x"], "--out: the suffix of 'x' names no format (no suffix); use .mp4"),
        (["-o", "/"], "--out: / is a folder; name a file in it"),
        (["-o", "."], "--out: . is a folder; name a file in it"),
        (["-o", "nowhere/x.mp4"], "--out: nowhere: no such folder; make it first"),
        (["-o", "~user/x.mp4"], "--out: ~user: no such folder; make it first (~ is expanded by the shell"),
        (["-o", "there.json/x.mp4"], "--out: there.json: is not a folder"),
        (["-o", "there.mp4"], "--out: there.mp4 exists; give --overwrite, or another name"),
        (["-o", "there.mov"], "--out: there.json exists; give --overwrite, or another name"),
        (["-o", "x" * 230 + ".mp4"], "--out: the name must be at most 220 bytes"),
        (["--sheet", "x.pdf"], "--sheet: must end in .png, .jpg, .jpeg, .webp (given 'x.pdf')"),
        (["--strip", "nowhere/x.png"], "--strip: nowhere: no such folder"),
        (["--strip", "x.png", "--sheet", "x.png"], "{cwd}/x.png: is the place of two outputs"),
        (["-o", "x.gif", "--fps", "60", "--size", "16x16"], "--fps for gif is above 0 and at most 50"),
        (["--set", "foo"], "--set: needs key=value (given 'foo'); for example seed=7"),
        (["--set", "=1"], "--set: needs key=value (given '=1')"),
        (["--set", "seed=1", "--set", "seed.b.c=1"], "--set seed.b.c: seed is 1, not a section; it has no b"),
        (["--set", "seed=[1]"], f"--set seed: {WHOLE_SEED.removeprefix('--seed: ')} (given [1])"),
        (["--set", "seed=1", "--set", "seed=-2"], "--set seed: seed must be a whole number"),
        (["--set", "sede=1"], "--set sede: no setting 'sede'; did you mean 'seed'?"),
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--config", "."], ".: is a directory; give a YAML file"),
        (["--config", "bad.yaml"], "bad.yaml:2: no setting 'guidance'; did you mean 'guidance_scale'?"),
        (["two", "words"], "Got unexpected extra arguments (two words); put a prompt of several words"),
    ],
)  # fmt: skip
def test_refused_in_one_line(empty_folder: Path, words: list[str], expected: str) -> None:
    (empty_folder / "there.mp4").write_bytes(b"old")
    (empty_folder / "there.json").write_text("{}")
    (empty_folder / "bad.yaml").write_text("seed: 1\nguidance: 3\n")
    check(run("a red circle", *words), 2, expected.replace("{cwd}", str(empty_folder)))
    assert sorted(path.name for path in empty_folder.iterdir()) == ["bad.yaml", "there.json", "there.mp4"]


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], 'PROMPT: is missing; for example video-diffusion generate "a red circle"'),
        ([""], "PROMPT: prompt is empty; say what the clip shows (given '')"),
        (["   "], "PROMPT: prompt is empty; say what the clip shows"),
        (["caf\udce9"], "PROMPT: prompt is not valid UTF-8 at byte 3; re-enter it as UTF-8"),
        (["-3 degrees"], "-3: no such option; a value that starts with - goes after --"),
    ],
)
def test_refused_prompts(words: list[str], expected: str) -> None:
    check(run(*words), 2, expected)


def test_a_nul_in_a_config_is_refused(empty_folder: Path) -> None:
    (empty_folder / "clip.yaml").write_text('prompt: "a\\0b"\n')
    check(
        run("--config", "clip.yaml"), 2, "clip.yaml:1: prompt holds a NUL character at position 1; remove it"
    )


def test_terminal_controls_in_values_are_shown_escaped() -> None:
    result = run("a", "--scheduler", "\x1b[2J\u202e\n")
    check(result, 2, "--scheduler: scheduler must be one of")
    assert (
        "\x1b" not in result.stderr
        and "\u202e" not in result.stderr
        and "\\x1b[2J\\u202e\\n" in result.stderr
    )


def test_machine_problems_have_their_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    check(
        run("a", "--size", "8192x8192", "--frames", "4096"),
        4,
        "a-0.mp4: No space left on device (274881906944",
    )
    if sys.platform != "darwin":
        check(run("a", "--device", "mps"), 4, "--device: mps is Apple's GPU and this is not a Mac")
    from video_diffusion.cli import outputs as output_checks

    monkeypatch.setattr(output_checks, "available_memory", lambda: 10**6)
    expected = (
        "--size: 16 frames of 512x256 need at least 0.0 GB of memory, 0.0 GB are free; make the clip smaller"
    )
    check(run("a", "--size", "512x256", "--frames", "16"), 4, expected)


def test_a_folder_without_write_permission(empty_folder: Path) -> None:
    """Root may write everywhere, so for the time of the command the test is somebody else."""
    run("a", "-o", "x.avi")  # imports all that it needs, from folders that may be root's own
    for parent in (empty_folder, *empty_folder.parents[:2]):
        parent.chmod(0o755)
    (empty_folder / "locked").mkdir(mode=0o555)
    with as_nobody():
        result = run("a", "-o", "locked/x.mp4")
    check(result, 4, "locked: Permission denied")


def test_a_read_only_disk(empty_folder: Path) -> None:
    with small_disk(empty_folder / "disk", "ro,size=64k"):
        check(run("a", "-o", "disk/x.mp4"), 4, "disk: Read-only file system")


def test_flags_win_over_set_over_configs_over_defaults(empty_folder: Path) -> None:
    from video_diffusion.cli.flags import settings_from

    (empty_folder / "one.yaml").write_text(
        "prompt: from one\nseed: 1\nnum_frames: 11\nheight: 16\nwidth: 24\n"
    )
    (empty_folder / "two.yaml").write_text("seed: 2\nfps: 30000/1001\nguidance_scale: 3\n")
    flags: dict[str, str | None] = {"guidance_scale": "4.5", "size": "64x48", "scheduler": None}
    settings = settings_from(None, ["one.yaml", "two.yaml"], ["num_frames=12", "guidance_scale=9"], flags)
    assert (settings.prompt, settings.seed, settings.num_frames) == ("from one", 2, 12)
    assert (settings.width, settings.height, settings.guidance_scale) == (64, 48, 4.5)
    assert (str(settings.fps), settings.scheduler, settings.model) == ("30000/1001", None, "embedded")
    assert settings_from("said", ["one.yaml"], [], {}).prompt == "said"


def test_refusals_never_import_torch() -> None:
    program = (
        "import sys\nfrom video_diffusion.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\nprint(code, sorted(heavy))"
    )
    for words, code in (
        (["a", "--frames", "0"], 2),
        (["a", "-o", "x.avi"], 2),
        (["a", "--set", "sede=1"], 2),
        (["a", "--fps", "nan"], 2),
        (["a", "--model", "embeded"], 3),
        (["a", "--motion-adapter", "./nowhere"], 3),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, "generate", *words], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{code} []\n"


def test_every_scheduler_of_the_sampler_can_be_asked_for() -> None:
    from typing import get_args

    from video_diffusion.sampling import SCHEDULERS
    from video_diffusion.settings import SchedulerName

    assert get_args(SchedulerName) == tuple(SCHEDULERS)


def test_the_help_states_the_ranges_that_the_settings_have() -> None:
    text = " ".join(run("--help").stdout.split())
    for stated in (
        "1 makes an image. [1 to 4096]",
        "0 to 2^63-1",
        "multiples of 8, 16 to 8192",
        "1 to 1000",
        "0 to 50",
    ):
        assert stated in text
