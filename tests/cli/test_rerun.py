"""`rerun` over many clips: a verdict for each, the reasons on stderr, one model in memory."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main


def run(*words):
    result = CliRunner().invoke(main, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def clips(tmp_path, tiny_model):
    """Four clips: the third record is changed, the fourth cannot be made again."""
    file = tmp_path / "jobs.txt"
    file.write_text("a red circle\na box\na cat\na dog\n")
    words = ["--model", tiny_model, "--device", "cpu", "-q"]
    code, out, err = run("generate", "--jobs", file, "-o", tmp_path / "clips", *words)
    assert code == 0, err
    paths = out.splitlines()
    for path, change in (
        (paths[2], {"frames_sha256": "0" * 64, "batch_size": 2}),
        (paths[3], {"settings": {"num_frames": 4000, "context_length": 4000}}),
    ):
        record = Path(path).with_suffix(".json")
        values = json.loads(record.read_text())
        for key, value in change.items():
            values[key] = values[key] | value if isinstance(value, dict) else value
        record.write_text(json.dumps(values))
        paths[paths.index(path)] = str(record)
    return paths


@pytest.mark.full
def test_many_clips_get_a_verdict_each_and_one_that_fails_stops_no_other(clips):
    code, out, err = run("rerun", clips[3], *clips[:3], "-q")
    lines = out.splitlines()
    assert (code, lines[0], lines[3]) == (1, f"failed {clips[3]}", f"different {clips[2]}")
    assert lines[1:3] == [f"identical {path}" for path in clips[:2]]
    assert f"{clips[3]}: context_length is 4000" in err
    assert f"{clips[2]}: other batch size: 2 then, 1 now" in err
    code, out, _ = run("rerun", *clips[:2], "--json")
    assert (code, [json.loads(line)["identical"] for line in out.splitlines()]) == (0, [True, True])


def test_what_is_no_record_is_told_before_anything_is_made(clips, tmp_path):
    code, out, err = run("rerun", clips[0], tmp_path / "jobs.txt")
    assert (code, out) == (2, "")
    assert "jobs.txt" in err
    code, _, err = run("rerun", *clips, "-o", tmp_path / "new.mp4")
    assert (code, "--out: saves one clip, but 4 are given" in err) == (2, True)
