"""What `measure` prints of two clips, and of a clip before and after its encoding."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner
from measured_clips import CLEAN, run

from video_diffusion.cli.main import main
from video_diffusion.metrics import measure
from video_diffusion.video import read_video, write_video

pytestmark = pytest.mark.usefixtures("clean_and_flickering")


@pytest.mark.full
def test_against_shows_the_difference_of_two_clips():
    facts = json.loads(run("flickering.mp4", "--against", "clean.mp4", "--json").stdout)
    one, two = (
        measure(read_video(f"{name}.mp4").frames, 8).values["flicker"].value
        for name in ("flickering", "clean")
    )
    assert facts["metrics"]["flicker"]["difference"] == pytest.approx(one - two)
    assert (facts["path"], facts["against"]) == ("flickering.mp4", "clean.mp4")
    table = run("flickering.mp4", "--against", "clean.mp4").stdout
    assert re.search(r"flicker .* \+\d.*levels +10 of 10", table)
    same = json.loads(run("clean.mp4", "--against", "clean.mp4", "--json").stdout)
    assert {measured["difference"] for measured in same["metrics"].values()} <= {0, None}


def test_against_needs_clips_of_equal_length():
    write_video("short.mp4", CLEAN[:7], Fraction(8))
    result = run("clean.mp4", "--against", "short.mp4")
    assert result.exit_code == 2
    assert "clean.mp4 has 12 frames and short.mp4 7" in result.stderr


def test_a_clip_with_a_record_shows_what_encoding_changed(tiny_model):
    made = CliRunner().invoke(
        main, ["generate", "a red circle", "--model", str(tiny_model), "-o", "c.mp4", "-q"]
    )
    assert made.exit_code == 0
    recorded = json.loads(Path("c.json").read_text())["measures"]
    facts = json.loads(run("c.mp4", "--json").stdout)
    for name in ("flicker", "raw_flicker", "sharpness"):
        assert facts["before_encoding"][name] == recorded[name]["value"]
        assert facts["after_minus_before_encoding"][name] == pytest.approx(
            facts["metrics"][name]["value"] - recorded[name]["value"]
        )
    assert "after minus before encoding: raw_flicker " in run("c.mp4").stdout
    assert "this, after minus before encoding" in run("c.mp4", "--against", "c.mp4").stdout
