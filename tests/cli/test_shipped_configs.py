"""Every file in configs/generate is valid, and its heading says what it is for and how it is run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from video_diffusion.cli.flags import settings_from
from video_diffusion.settings import read_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "generate").glob("*.yaml"))


def test_there_are_some() -> None:
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_config_is_valid_and_headed(path: Path) -> None:
    heading = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("Purpose:", "Command:", "Expect:", "Time:"):
        assert any(line.startswith(f"# {part}") for line in heading), part
    (command,) = [line.removeprefix("# Command:") for line in heading if line.startswith("# Command:")]
    words = shlex.split(command)
    assert words[:2] == ["video-diffusion", "generate"] and f"configs/generate/{path.name}" in words
    needs_prompt = "prompt" not in read_config(path).values
    assert needs_prompt == (words[2] != "--config")
    settings = settings_from(words[2] if needs_prompt else None, [str(path)], [], {})
    assert settings.num_frames and settings.width and settings.height


def test_the_readme_of_the_first_clip_and_its_config_agree() -> None:
    """The prompt of the README's first command is the one in first-clip.yaml."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(r'video-diffusion generate "([^"]+)"', readme)
    assert found is not None
    config = next(path for path in CONFIGS if path.name == "first-clip.yaml")
    assert read_config(config).values["prompt"] == found[1]


def test_the_page_of_settings_is_made_of_their_declarations() -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_settings_page.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
