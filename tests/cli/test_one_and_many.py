"""One picture, several seeds of one prompt, and clips longer than the model knows, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from clip_commands import generate, run
from folder_names import names
from PIL import Image

from video_diffusion.video import frames_sha256, read_record

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize("name", ["one.png", "one.jpg", "one.webp"])
def test_one_frame_is_a_picture(tiny_model: Path, empty_folder: Path, name: str) -> None:
    result = generate(tiny_model, "a red circle", "--frames", 1, "-o", name)
    assert (result.exit_code, result.stdout) == (0, f"{name}\n"), result.stderr
    assert " · 1 frame of 48x32" in result.stderr
    assert names(empty_folder) == {name, f"{name}.json"}
    with Image.open(name) as picture:
        assert (picture.size, picture.format) == ((48, 32), {"jpg": "JPEG"}.get(name[4:], name[4:].upper()))
        pixels = np.asarray(picture.convert("RGB"))[None]
    if name == "one.png":  # without loss
        assert frames_sha256(pixels) == read_record(name).frames_sha256
    assert run("rerun", name).stdout == "identical\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "c.png"], "--out: .png is one picture, but the clip has 5 frames; set num_frames to 1 (--fr"),
        (["-o", "c.png", "--codec", "libx264", "--frames", "1"], "--codec: codec libx264 does not go into"),
        (["--seeds", "0-x"], "--seeds: seeds must be numbers such as 3"),
        (["--seeds", "3-1"], "--seeds: seeds has the range 3-1, which runs backwards"),
        (["--seeds", "0-3", "--seed", "1"], "--seeds: does not go with --seed; keep one of them"),
        (["--seeds", "0-3", "-o", "c.mp4"], "--out: c.mp4 names one clip, but --seeds makes several; name a"),
        (["--seeds", "0-3", "--strip", "s.png"], "--strip: draws one clip; leave it out with --seeds"),
        (["--verify"], "--verify: works on many clips; give it together with --jobs FILE or --seeds"),
    ],
)  # fmt: skip
def test_refused_in_one_line(tiny_model: Path, empty_folder: Path, words: list[str], message: str) -> None:
    result = generate(tiny_model, "a red circle", *words)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert message in result.stderr
    assert not names(empty_folder)


def test_seeds_make_a_clip_each_into_a_folder_and_go_on_where_they_stopped(tiny_model: Path) -> None:
    one = generate(tiny_model, "a red circle", "--seed", 2, "-o", "one.mp4", "-q")
    assert one.exit_code == 0, one.stderr
    first = generate(tiny_model, "A red circle", "--seeds", "2,5-6", "--shard", "0/2", "-q")
    assert first.exit_code == 0, first.stderr
    both = generate(tiny_model, "a red circle", "--seeds", "2,5-6")
    assert both.exit_code == 0, both.stderr
    assert both.stdout.count("a-red-circle/a-red-circle-") == 3
    rows = [json.loads(line) for line in Path("a-red-circle/results.jsonl").read_text().splitlines()]
    made = {row["settings"]["seed"]: row for row in rows if row["settings"]["prompt"] == "a red circle"}
    assert sorted(made) == [2, 5, 6]
    assert made[2]["frames_sha256"] == read_record("one.mp4").frames_sha256
    assert made[2]["job_id"] == read_record("one.mp4").job_id
    again = generate(tiny_model, "a red circle", "--seeds", "2,5-6", "--dry-run", "--json")
    assert [json.loads(line)["done"] for line in again.stdout.splitlines()] == [True] * 3


def test_a_prompt_that_travels_has_seeds_too(tiny_model: Path) -> None:
    words = ("--prompt", "0: a red circle", "--prompt", "-1: a circle", "--seeds", "0-1")
    result = run("generate", "--model", tiny_model, *words)
    assert (result.exit_code, result.stdout.count("a-red-circle/a-red-circle-")) == (0, 2), result.stderr


def test_a_long_clip_gets_windows_alone_and_in_batches_alike(tiny_model: Path) -> None:
    words = ("--frames", 11, "--steps", 1)
    alone = generate(tiny_model, "a red circle", "-o", "c.mp4", *words)
    assert "warning: num_frames 11 is more than this model makes in one pass" in alone.stderr
    assert "windows of 5 frames (context_length)" in alone.stderr
    record = read_record("c.mp4")
    assert record.settings.context_length == 5 and len(record.window_starts) > 1
    batch = generate(tiny_model, "a red circle", "--seeds", "0-1", "-o", "batch", *words)
    assert batch.stderr.count("is made in windows of 5 frames (context_length)") == 1
    row = json.loads(Path("batch/results.jsonl").read_text().splitlines()[0])
    assert (row["job_id"], row["frames_sha256"]) == (record.job_id, record.frames_sha256)
    assert run("rerun", "c.mp4").stdout == "identical\n"
