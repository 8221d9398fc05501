"""`generate` on a tiny real model: files, records, pictures, what is printed where."""

import json
import re
from pathlib import Path

import pytest
from clip_commands import generate, run
from folder_names import names
from PIL import Image

from video_diffusion.video import frames_sha256, read_record, read_video

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_a_clip_with_record_sheet_and_strip(tiny_model: Path, empty_folder: Path) -> None:
    result = generate(
        tiny_model, "a red circle", "-o", "c.mp4", "--seed", 7, "--sheet", "s.png", "--strip", "t.png"
    )
    assert (result.exit_code, result.stdout) == (0, "c.mp4\n"), result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("seed 7 · flicker ") and "motion" in line and "5 frames of 48x32 at 8 fps" in line
    assert names(empty_folder) == {"c.mp4", "c.json", "s.png", "t.png"}
    video, record = read_video("c.mp4"), read_record("c.mp4")
    assert video.frames.shape == (5, 32, 48, 3) and video.fps == 8
    assert record == read_record("c.json")
    own = record.settings
    assert (own.prompt, own.seed, own.num_frames, own.num_inference_steps) == ("a red circle", 7, 5, 3)
    assert {"raw_flicker", "flicker", "motion", "sharpness"} <= set(record.measures)
    assert record.model.weights_sha256 and record.timings["denoise"] > 0
    with Image.open("s.png") as sheet, Image.open("t.png") as strip:
        assert min(*strip.size, *sheet.size) > 300


def test_json_has_one_object_with_everything(tiny_model: Path) -> None:
    result = generate(
        tiny_model,
        "a red circle",
        "-o",
        "c.mp4",
        "--json",
        "--size",
        "24x16",
        "--frames",
        3,
        "--fps",
        "30000/1001",
    )
    assert (result.exit_code, result.stderr) == (0, "")
    clip = json.loads(result.stdout)
    assert clip["path"] == "c.mp4" and clip["prompt"] == "a red circle" and clip["seed"] == 0
    assert (clip["num_frames"], clip["width"], clip["height"]) == (3, 24, 16)
    assert clip["fps"] == pytest.approx(29.97, abs=0.001) and clip["seconds"] > 0
    assert set(clip["metrics"]["flicker"]) == {"value", "unit", "status"}
    assert re.fullmatch("[0-9a-f]{64}", clip["frames_sha256"])
    assert clip["frames_sha256"] == read_record("c.mp4").frames_sha256


def test_a_dry_run_of_one_clip_tells_what_would_be_made(tiny_model: Path, empty_folder: Path) -> None:
    """Symptom: `generate PROMPT --dry-run` was refused without --seeds."""
    told = generate(tiny_model, "a red circle", "--seed", 3, "--dry-run")
    assert (told.exit_code, told.stdout) == (0, "a-red-circle-3.mp4\n")
    assert told.stderr.startswith("1 clip with seed 3 · 5 frames · 48x32 · 8 per second · 3 steps · by ")
    told = generate(tiny_model, "a", "--frames", 4, "--dry-run", "--json", "-o", "c.mp4")
    plan = json.loads(told.stdout)
    assert plan["file"] == "c.mp4" and plan["settings"]["num_frames"] == 4
    assert generate(tiny_model, "a", "-o", "c.mp4", "--check").stderr == "c.mp4: nothing wrong\n"
    assert generate(tiny_model, "a", "-o", "no/c.mp4", "--dry-run").exit_code == 2
    assert names(empty_folder) == set()


def test_the_recorded_hash_is_that_of_the_frames_before_encoding(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "--codec", "libx264rgb", "-q")
    assert frames_sha256(read_video("c.mp4").frames) == read_record("c.mp4").frames_sha256


def test_records_stay_out_of_the_file_on_request(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "--no-embed-metadata", "-q")
    assert b"red circle" not in Path("c.mp4").read_bytes()
    assert read_record("c.mp4").settings.prompt == "a red circle"  # from the sidecar


def test_names_come_from_prompt_and_seed_and_never_collide(tiny_model: Path, empty_folder: Path) -> None:
    for expected in ("a-red-circle-7.mp4", "a-red-circle-7-2.mp4"):
        result = generate(tiny_model, "A red/circle!", "--seed", 7, "-q")
        assert (result.stdout, result.stderr) == (f"{expected}\n", "")
    assert generate(tiny_model, "A red/circle!", "--seed", 7, "-q", "--overwrite").stdout == (
        "a-red-circle-7.mp4\n"
    )
    assert names(empty_folder) == {f"a-red-circle-7{part}" for part in (".mp4", ".json", "-2.mp4", "-2.json")}


def test_overwrite_replaces_clip_record_and_pictures(tiny_model: Path) -> None:
    for seed in (1, 2):
        result = generate(
            tiny_model, "a red circle", "-o", "c.mp4", "--sheet", "s.png", "--seed", seed, "--overwrite"
        )
        assert result.exit_code == 0, result.stderr
    assert read_record("c.mp4").settings.seed == read_record("c.json").settings.seed == 2


@pytest.mark.full
@pytest.mark.parametrize(
    "out, words", [("f/", ()), ("c.gif", ()), ("c.webm", ()), ("c.webp", ()), ("f", ("--codec", "png"))]
)
def test_other_formats(tiny_model: Path, out: str, words: tuple[str, ...]) -> None:
    result = generate(tiny_model, "a red circle", "-o", out, "-q", *words)
    assert result.exit_code == 0, result.stderr
    assert len(read_video(out).frames) == 5
    assert read_record(out).frames_sha256


def test_a_config_that_was_written_runs_as_it_is(tiny_model: Path) -> None:
    Path("clip.yaml").write_text(f"prompt: a red circle\nmodel: {tiny_model}\nseed: 7\nnum_frames: 3\n")
    result = run("generate", "--config", "clip.yaml", "-q", "-o", "c.mp4")
    assert result.exit_code == 0, result.stderr
    assert (read_record("c.mp4").settings.seed, len(read_video("c.mp4").frames)) == (7, 3)


def test_hostile_prompts_are_stored_verbatim_and_shown_escaped(tiny_model: Path) -> None:
    prompt = "a [/] \x1b[2J\u202e red\nçircle 漢"
    result = generate(tiny_model, prompt, "-o", "c.mp4", "--sheet", "s.png", "--prompt-syntax", "plain")
    assert result.exit_code == 0, result.stderr
    assert read_record("c.mp4").settings.prompt == prompt
    shown = run("inspect", "c.mp4").stdout
    assert "prompt: a [/] \\x1b[2J\\u202e red\\nçircle 漢\n" in shown
    for text in (result.output, shown):
        assert "\x1b" not in text and "\u202e" not in text


def test_a_prompt_that_starts_with_a_dash_goes_after_two(tiny_model: Path) -> None:
    result = run("generate", "--model", tiny_model, "-q", "--", "-a red")
    assert (result.exit_code, result.stdout) == (0, "a-red-0.mp4\n")
