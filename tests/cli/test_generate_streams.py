"""`generate` where streams, names and another run meet: nothing is lost, nothing described wrongly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from clip_commands import generate
from folder_names import names
from forked_program import forked, start

from video_diffusion.video import files, read_record

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("empty_folder")]


def shell(model: Path, rest: str) -> subprocess.CompletedProcess[str]:
    """`generate` through a shell that redirects its streams."""
    line = f'"{sys.executable}" -m video_diffusion generate "a red circle" --model "{model}" {rest}'
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "rest",
    [
        ">&- 2>&-",
        "2>/dev/full",
        "<&-",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("2>&-", ">&-")),
    ],
)
def test_closed_and_full_streams_do_not_cost_the_clip(tiny_model: Path, rest: str) -> None:
    done = shell(tiny_model, f"-o c.mp4 {rest}")
    assert (done.returncode, Path("c.mp4").is_file(), Path("c.json").is_file()) == (0, True, True), (
        done.stderr
    )
    assert read_record("c.mp4").settings.prompt == "a red circle"


def test_the_json_that_goes_where_the_record_would_is_refused_and_not_lost(tiny_model: Path) -> None:
    for overwrite in ([], ["--overwrite"]):
        words = ["generate", "a red circle", "--model", tiny_model, "-o", "c.mp4", "--json", *overwrite]
        done = forked(words, stdout=Path("c.json"))
        assert done.returncode == 2 and "c.json is the file that stdout goes to" in done.stderr
    words = ["generate", "a red circle", "--model", tiny_model, "-o", "d.mp4", "--json"]
    done = forked(words, stdout=Path("answer.json"))
    assert done.returncode == 0 and json.loads(Path("answer.json").read_text())["path"] == "d.mp4"


def test_two_equal_runs_at_once_make_two_clips_and_one_name_is_made_once(
    tiny_model: Path, empty_folder: Path
) -> None:
    words = ["generate", "a", "--model", tiny_model, "-q"]
    both = [program.end() for program in [start(words), start(words)]]
    assert sorted(done.stdout for done in both) == ["a-0-2.mp4\n", "a-0.mp4\n"], both
    both = [program.end() for program in [start([*words, "-o", "c.mp4"]), start([*words, "-o", "c.mp4"])]]
    whole, refused = sorted(both, key=lambda done: done.returncode)
    assert (whole.returncode, whole.stdout) == (0, "c.mp4\n"), whole.stderr
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is being made by another run" in refused.stderr
    assert names(empty_folder) == {"a-0.mp4", "a-0.json", "a-0-2.mp4", "a-0-2.json", "c.mp4", "c.json"}


def test_one_clip_in_two_formats_under_one_stem(tiny_model: Path, empty_folder: Path) -> None:
    for name in ("a.gif", "a.webp", "a.mp4"):
        assert generate(tiny_model, "a red circle", "-o", name, "-q").exit_code == 0
    assert {"a.gif.json", "a.webp.json", "a.json"} <= names(empty_folder)
    assert read_record("a.gif").frames_sha256 == read_record("a.webp").frames_sha256


def test_a_new_clip_never_stands_beside_an_old_record(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate(tiny_model, "a red circle", "-o", "c.webp", "-q").exit_code == 0
    replace, stood = files._replace, []

    def watched(part: Path, path: Path) -> None:
        replace(part, path)
        if path.suffix == ".webp":
            stood.append(Path("c.webp.json").exists())

    monkeypatch.setattr(files, "_replace", watched)
    assert generate(tiny_model, "a blue circle", "-o", "c.webp", "-q", "--overwrite").exit_code == 0
    assert stood == [False] and read_record("c.webp").settings.prompt == "a blue circle"
