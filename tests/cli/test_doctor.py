"""`doctor` finds what works on this machine and what does not."""

import json
import stat
from pathlib import Path

import pytest
from clip_commands import run

pytestmark = pytest.mark.usefixtures("empty_folder")


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
