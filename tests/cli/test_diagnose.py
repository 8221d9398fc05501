"""`diagnose` as a user calls it: a prompt, a clip with its record, one of another tool, and refusals."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_models import save_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.video import write_video

SMALL = {"num_frames": 4, "height": 16, "width": 24, "num_inference_steps": 1, "guidance_scale": 4.0}


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["diagnose", *words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", norm_scope="frame", **SMALL))


def test_a_clip_is_diagnosed_from_its_record_and_nothing_is_made_twice(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(main, ["generate", "a ball", "--model", model, "-o", "clip.mp4", "-q"])
    assert made.exit_code == 0, made.stderr
    first = run("clip.mp4", "--seeds", "0-1", "--json")
    assert first.exit_code == 0, first.stderr
    answer: dict[str, Any] = json.loads(first.stdout)
    assert answer["seeds"] == [0, 1]
    parts = {each["part"] for each in answer["contributions"]}
    assert {"encoder", "decoder", "denoiser", "temporal layers", "guidance", "noise"} <= parts
    half = next(each for each in answer["contributions"] if each["label"] == "guidance 2, half of it")
    effect = half["effects"]["flicker"]
    assert effect["num_seeds"] == 2
    assert effect["estimate"] == pytest.approx(effect["changed"] - effect["as_it_is"])
    assert "--set guidance_scale=2.0" in half["command"]
    assert not any(
        "not the recorded one" in note for note in answer["notes"]
    )  # it was made again bit for bit
    page = Path("clip-diagnosis/diagnosis.html").read_text()
    assert "guidance 2, half of it" in page
    rows = Path("clip-diagnosis/results.jsonl").read_bytes()
    again = run("clip.json", "--seeds", "0-1")
    assert again.exit_code == 0, again.stderr
    assert Path("clip-diagnosis/results.jsonl").read_bytes() == rows
    assert again.stdout.endswith("clip-diagnosis/diagnosis.html\n")


def test_a_budget_that_is_too_small_leaves_changes_out_and_says_so(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("a ball", "--set", f"model={model}", "--seeds", "0", "--budget", "0.001s", "-o", "out")
    assert result.exit_code == 0, result.stderr
    assert "guidance 2, half of it was left out: the budget had no room" in result.stderr
    assert result.stdout.startswith("Nothing stands out: ")


@pytest.mark.full
@pytest.mark.parametrize(
    ("given", "label", "left_out"),
    [
        ("refine", "the clip before its second pass", "from noise, without refine"),
        ("init_video", "the video it starts from", "strength 0.3, half of it"),
        ("extend", "the frames it goes on from, alone", "extend_overlap 2, twice as long"),
    ],
)
def test_what_a_clip_is_made_of_is_looked_at_alone(
    given: str, label: str, left_out: str, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(90, 120, (6, 16, 24, 3), np.uint8)
    write_video("given.mp4", frames, Fraction(8))
    asked = [f"model={model}", f"{given}=given.mp4", "num_frames=4", "num_inference_steps=4"]
    asked += ["extend_overlap=1"] if given == "extend" else []
    words = [word for each in asked for word in ("--set", each)]
    result = run("a ball", *words, "--seeds", "0", "--budget", "0.001s", "-o", "out", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    look = next(each for each in answer["contributions"] if each["part"] == "input")
    assert look["label"] == label
    assert set(look["effects"]) <= {"flicker", "morph", "drift"}
    assert any(note.startswith(f"{left_out} was left out") for note in answer["notes"])
    assert any("given.mp4" in note and "iagnose" in note for note in answer["notes"])
    assert {"flicker", "drift"} <= {each["measure"] for each in answer["where"]}
    num_frames = 9 if given == "extend" else 4  # its 6 and the 3 behind them
    assert f"of {num_frames}, " in answer["where"][0]["words"]
    page = Path("out/diagnosis.html").read_text()
    assert "Where it is worst" in page
    assert answer["where"][0]["words"] in page


@pytest.mark.full
def test_another_autoencoder_is_swapped_for_the_models_own(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = str(save_tiny_model(tmp_path / "other", norm_scope="frame", **{**SMALL, "num_frames": 3}))
    words = ("--set", f"model={model}", "--set", f"vae={other}/vae", "--seeds", "0", "-o", "out", "--json")
    result = run("a ball", *words)
    assert result.exit_code == 0, result.stderr
    own = next(
        each
        for each in json.loads(result.stdout)["contributions"]
        if each["label"] == "the model's own autoencoder"
    )
    assert (own["part"], own["settings"]) == ("decoder", {"vae": None})
    assert "vae" not in own["command"]


def test_a_clip_without_a_record_is_told_about_from_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8).repeat(12, 0)
    frames[::2] //= 2
    write_video("other.mp4", frames, Fraction(8))
    result = run("other.mp4", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["causes"] == ["global against local"]
    page = Path("other-diagnosis/diagnosis.html").read_text()
    assert "from pixels alone" in page
    assert "../other.mp4" in page
    assert "The file is not there" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], "CLIP: nowhere.mp4: no such file; name one that is there, or give a prompt"),
        (["a", "--budget", "soon"], "--budget: must be a time such as 90s, 10m or 1h (given 'soon')"),
        (["a", "--seeds", "x"], "--seeds: must be numbers such as 3"),
        (["a", "--set", "steps=3"], "no setting 'steps'"),
        ([__file__, "--set", "seed=3"], "--set: is for a PROMPT; a clip's settings are those of its record"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_made(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
