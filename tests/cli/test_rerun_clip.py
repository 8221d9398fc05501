"""`rerun` of one clip: identical, or different and why."""

import json
from pathlib import Path
from typing import Any

import pytest
from clip_commands import generate, run

from video_diffusion.video import read_record, read_video

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_a_seed_is_a_clip_and_rerun_finds_it_identical(tiny_model: Path) -> None:
    clips = {}
    for name, seed in (("one.mp4", 7), ("two.mp4", 7), ("three.mp4", 8)):
        generate(tiny_model, "a red circle", "-o", name, "--seed", seed, "-q")
        clips[name] = read_record(name).frames_sha256
    assert clips["one.mp4"] == clips["two.mp4"] != clips["three.mp4"]
    result = run("rerun", "one.mp4", "-q", "-o", "again.webm")
    assert (result.exit_code, result.stdout) == (0, "identical\n")
    assert len(read_video("again.webm").frames) == 5


def changed_record(name: str, **changes: Any) -> None:
    record = json.loads(Path("c.json").read_text())
    for key, value in changes.items():
        holder, _, field = key.rpartition("__")
        (record[holder] if holder else record)[field] = value
    Path(name).write_text(json.dumps(record))


@pytest.mark.full
def test_rerun_says_why_a_clip_is_not_the_same(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    changed_record("x.json", frames_sha256="0" * 64, versions__torch="1.0", model__weights_sha256="1" * 64)
    result = run("rerun", "x.json", "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 1 and answer["identical"] is False
    weights, torch = answer["differences"]
    assert weights.startswith("other weights: 111111111111 then, ") and torch.startswith(
        "other version of torch: 1.0 then, "
    )
    changed_record("y.json", frames_sha256="0" * 64)
    result = run("rerun", "y.json", "-q")
    assert (result.exit_code, result.stdout) == (1, "different\n")
    assert (
        result.stderr
        == "same weights, versions, processor and device as recorded: the record may have been changed\n"
    )


def test_rerun_fetches_nothing_because_of_a_record(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    changed_record("x.json", settings__model="some\x1b[2Jbody/model")
    result = run("rerun", "x.json")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --model: the record names some\\x1b[2Jbody/model, which is not here; say where it is, "
        "or give --model some\\x1b[2Jbody/model to fetch it\n"
    )
    assert run("rerun", "x.json", "--model", tiny_model, "-q").exit_code == 0


def test_rerun_computes_with_as_many_threads_as_the_record_says(tiny_model: Path) -> None:
    import torch

    before = torch.get_num_threads()
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q")
    assert read_record("c.mp4").num_threads == before
    changed_record("x.json", num_threads=3)
    try:
        result = run("rerun", "x.json", "--json", "-o", "again.mp4")
        assert read_record("again.mp4").num_threads == 3, result.output
    finally:
        torch.set_num_threads(before)
