"""`tune` as a user calls it: a whole search, a gain that is planted and found, nothing to find, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from clip_commands import run
from tiny_models import save_tiny_model

from video_diffusion.cli.flags import settings_from
from video_diffusion.settings import read_config

pytest.importorskip("optuna", reason="optuna is not installed")
CONFIRM = "confirm: {prompts: [e, f, g, h, i, j]}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    defaults: dict[str, Any] = {"num_frames": 4, "height": 16, "width": 24, "fps": "12"}
    return save_tiny_model(folder, **defaults, scheduler="ddim", num_inference_steps=1, guidance_scale=2.0)


def declared(model: Path, search: str, start: str = "", **values: str) -> str:
    """A file in which an untrained model can gain: noise that frames share flickers less."""
    parts = {"objectives": "[raw_flicker]", "prompts": "[a, b]", "trials": "4", **values}
    lines = "".join(f"{name}: {value}\n" for name, value in parts.items())
    return f"settings: {{model: {model}{start}}}\nsearch: {search}\n{lines}{CONFIRM}"


@pytest.fixture
def search_file(model: Path, empty_folder: None) -> Path:
    wide = "margins: {motion: 99, sharpness: 99, morph: 99, flicker: 99, cuts: 99}\n"
    text = declared(model, "{noise_type: [independent, mixed], noise_alpha: {range: [2, 4]}}")
    Path("mine.yaml").write_text(text + wide)
    return Path("mine.yaml")


def test_a_search_ends_in_the_sentence_of_the_test_and_makes_nothing_twice(search_file: Path) -> None:
    first = run("tune", search_file, "--json")
    assert first.exit_code == 0, first.stderr
    answer = json.loads(first.stdout)
    better = "Better than the start, on 6 prompts × 1 seed that the search never saw"
    assert answer["sentence"].startswith((better, "Nothing better found", "Not confirmed"))
    trials = answer["search"]["trials"]
    assert [each["label"] for each in trials] == ["start", "trial 1", "trial 2", "trial 3"]
    assert not set(answer["confirm"]["prompts"]) & set(answer["search"]["prompts"])
    assert not set(answer["confirm"]["seeds"]) & set(answer["search"]["seeds"])
    page = Path("mine/tuning.html").read_text()
    assert answer["sentence"] in page and "optimistic" in page and "trial 3" in page
    best = settings_from("a", ["mine/best.yaml"], [], {}).model_dump(mode="json")
    assert {name: best[name] for name in answer["best"]} == answer["best"]
    rows = Path("mine/results.jsonl").read_text().splitlines()
    assert len({json.loads(row)["job_id"] for row in rows}) == len(rows)

    again = run("tune", search_file)
    assert Path("mine/results.jsonl").read_text().splitlines() == rows
    assert again.stdout.splitlines()[:2] == ["mine/tuning.html", "mine/best.yaml"]
    assert again.stdout.splitlines()[-1] == answer["sentence"]


def test_a_dry_run_tells_clips_and_time_and_makes_nothing(search_file: Path) -> None:
    result = run("tune", search_file, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert (
        "4 trials: 5 to 8 clips, by how many settings end early, and 12 to confirm; about " in result.stderr
    )
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such file, and no recipe of that name"),
        (["mine.yaml", "--workers", "0"], "--workers: must be a number from 1 to 1024 (given '0')"),
        (["mine.yaml", "--trials", "x"], "trials must be a whole number from 2 to 10000 (given 'x')"),
        (["mine.yaml", "--engine", "ray"], "must be local (given 'ray'); Ray would load the model anew"),
        (["mine.yaml", "--budget", "soon"], "--budget: must be a time such as 90s, 10m or 1h (given 'soon')"),
        (["mine.yaml", "--set", "search.noise_alpha.range=[4,2]"], "must be [low, high] with low < high"),
        (["mine.yaml", "--set", "objectives=[prompt_alignment]"], "cannot be measured for the prompt 'a'"),
        (["mine.yaml", "--set", "noise_alfa=3"], "no setting 'noise_alfa'; did you mean 'noise_alpha'"),
        (["mine.yaml", "-o", "mine.yaml"], "--out: mine.yaml is a file; name a folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_before_anything_is_made(
    search_file: Path, words: list[str], message: str
) -> None:
    result = run("tune", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


@pytest.mark.full
def test_killed_at_random_and_with_two_workers_it_goes_on_and_makes_nothing_twice(search_file: Path) -> None:
    command = [sys.executable, "-m", "video_diffusion", "tune", "mine.yaml", "--trials=8"]
    for _ in range(2):
        process = subprocess.Popen([*command, "-q"])
        deadline = time.monotonic() + 120
        before = len(rows_of("mine"))
        while len(rows_of("mine")) < before + 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, "--workers=2", "--json"], check=True, capture_output=True, text=True)
    trials = json.loads(done.stdout)["search"]["trials"]
    assert [each["trial"] for each in trials] == list(range(8))
    assert {each["outcome"] for each in trials} <= {"all prompts", "ended early"}
    ids = [row["job_id"] for row in rows_of("mine")]
    assert len(set(ids)) == len(ids)


def rows_of(folder: str) -> list[dict[str, Any]]:
    file = Path(folder) / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


PROMPTS = """
  - a large red circle moving left on a white background
  - a small blue square moving up on a pink background"""
KEPT = """confirm:
  prompts:
    - a large green square moving right on a gray background
    - a small yellow circle moving down on a black background
    - a large purple triangle moving left on a white background
    - a small cyan square moving up on a black background
    - a large blue circle moving down on a pink background
    - a small red triangle moving right on a gray background
    - a large yellow square moving left on a black background
    - a small green circle moving up on a white background
    - a large cyan triangle moving down on a pink background
"""


@pytest.mark.full
def test_the_guidance_that_was_set_too_high_is_found_on_the_shipped_model(empty_folder: None) -> None:
    Path("hot.yaml").write_text(
        "settings: {guidance_scale: 40, num_inference_steps: 8, num_frames: 12}\nobjectives: [flicker]\n"
        "margins: {morph: 9, motion: 9, sharpness: 9, prompt_alignment: 9, cuts: 9}\n"
        f"search: {{guidance_scale: [2.5, 40]}}\nprompts: {PROMPTS}\ntrials: 4\n{KEPT}"
    )
    result = run("tune", "hot.yaml", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["outcome"] == "better", answer["sentence"]
    assert answer["best"]["guidance_scale"] == 2.5
    assert read_config(Path("hot/best.yaml")).values["guidance_scale"] == 2.5


@pytest.mark.full
def test_where_there_is_nothing_to_find_nothing_is_found_on_the_shipped_model(empty_folder: None) -> None:
    Path("calm.yaml").write_text(
        "settings: {num_inference_steps: 4, num_frames: 8}\nobjectives: [flicker, motion]\n"
        f"search: {{guidance_scale: [1.5, 2.5, 3.5]}}\nprompts: {PROMPTS}\ntrials: 5\n{KEPT}"
    )
    result = run("tune", "calm.yaml", "--a-a", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["outcome"] in {"nothing found", "not confirmed"}, answer["sentence"]
    assert answer["sentence"].startswith(("Nothing better found", "Not confirmed"))
    rows = rows_of("calm-a-a")
    assert len({row["frames_sha256"] for row in rows}) == len(rows)
    for row in rows:
        assert row["settings"] == {
            **rows[0]["settings"],
            **{n: row["settings"][n] for n in ("seed", "prompt")},
        }
