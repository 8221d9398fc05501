"""Every file in configs/compare is a valid comparison; its heading tells what it is for and what it finds."""

import shlex
from pathlib import Path

import pytest

from video_diffusion.comparison.design import design_from
from video_diffusion.comparison.statistics import p_reachable
from video_diffusion.settings import read_config

FOLDER = Path(__file__).parents[2] / "configs" / "compare"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


def test_there_is_one_for_each_question():
    assert len(CONFIGS) >= 8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_comparison_is_valid_headed_and_can_tell(path, tmp_path, monkeypatch):
    heading = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("Purpose:", "Command:", "Expect:", "Time:"):
        assert any(line.startswith(f"# {part}") for line in heading), part
    (command,) = [line.removeprefix("# Command:") for line in heading if line.startswith("# Command:")]
    assert shlex.split(command)[:3] == ["video-diffusion", "compare", f"configs/compare/{path.name}"]
    for step in (100, 200):
        (tmp_path / f"runs/zigzag/checkpoints/step-{step:08d}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    design = design_from(read_config(path))
    assert design.title
    assert p_reachable(len(design.prompts), len(design.arms) - 1) <= design.alpha
