"""Shipped settings files by name from any folder; what a shell is offered."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from click.shell_completion import ShellComplete
from clip_commands import run

from video_diffusion.cli.main import main
from video_diffusion.cli.recipes import find_config, recipes
from video_diffusion.settings import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


def offered(words: list[str], typed: str) -> list[str]:
    completion = ShellComplete(main, {}, "video-diffusion", "_VIDEO_DIFFUSION_COMPLETE")
    return [item.value for item in completion.get_completions(words, typed) if item.type == "plain"]


def test_a_recipe_is_found_by_name_from_any_folder(tiny_model: Path) -> None:
    words = ["--config", "still-lossless", "--model", tiny_model, "-o", "a.mp4", "-q", "--frames", "2"]
    result = run("generate", "a red", *words)
    assert result.exit_code == 0, result.stderr
    assert find_config("animatediff-v3", "generate") == recipes("generate")["animatediff-v3"]
    assert find_config("embedded-zigzag.yaml", "train").is_file()
    AcceleratorState._reset_state()  # a process has one precision, and tests share theirs
    told = run("train", "embedded-zigzag").stderr
    AcceleratorState._reset_state()
    assert told.startswith("error: data/zigzag: no such folder")


def test_a_file_of_one_s_own_comes_first_and_an_unknown_name_is_told() -> None:
    Path("animatediff-v3.yaml").write_text("seed: 3\n")
    assert find_config("animatediff-v3.yaml", "generate") == Path("animatediff-v3.yaml")
    with pytest.raises(
        ConfigError, match="no such file, and no recipe of that name; did you mean 'guidance'"
    ):
        find_config("guidanc", "compare")
    result = run("generate", "a", "--config", "nowhere/animatediff.yaml")
    assert (result.exit_code, result.stderr) == (2, "error: nowhere/animatediff.yaml: no such file\n")


def test_a_shell_is_offered_schedulers_recipes_and_files() -> None:
    assert offered(["generate", "--scheduler"], "dp") == ["dpmpp_2m", "dpmpp_2m_karras", "dpmpp_sde"]
    assert offered(["generate", "--prompt-syntax"], "") == ["a1111", "comfy", "plain"]
    assert offered(["generate", "--config"], "animatediff-v") == [f"animatediff-v{n}" for n in (1, 2, 3)]
    assert offered(["train"], "embedded") == ["embedded-few-steps", "embedded-zigzag"]
    assert offered(["compare"], "gui") == ["guidance"]
    assert offered(["generate", "--motion-adapter"], "n") == ["none"]


@pytest.mark.full
def test_the_wheel_carries_the_recipes(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel")
    import zipfile

    root = Path(__file__).parents[2]
    (wheel,) = builder.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {file.relative_to(root) for file in (root / "configs").rglob("*") if file.is_file()}
    assert {f"video_diffusion/{file.as_posix()}" for file in shipped} <= names
