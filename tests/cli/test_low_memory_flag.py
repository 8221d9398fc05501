"""`generate --low-memory`: recorded, and repeated by `rerun`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main


def test_a_clip_made_in_less_memory_is_repeated_that_way(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a red circle", "--model", str(tiny_model), "-o", "c.mp4", "--low-memory", "-q"]
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    record = json.loads(Path("c.json").read_text())
    assert (record["low_memory"], record["accelerated"]) == (True, True)
    again = CliRunner().invoke(main, ["rerun", "c.mp4"])
    assert (again.exit_code, again.stdout) == (0, "identical\n")
    refused = CliRunner().invoke(main, ["generate", "--jobs", "j.txt", "--low-memory", "-o", "out"])
    assert refused.exit_code == 2
    assert "--low-memory: is for one clip" in refused.stderr
