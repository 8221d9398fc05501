"""`data make`: clips, captions and truth that belong to seed and index alone; a folder to go on with."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from video_diffusion.cli.main import main
from video_diffusion.procedural import read_scene
from video_diffusion.procedural.scene import Scene, SceneObject, is_held_out
from video_diffusion.video import iter_frames, read_video

pytestmark = pytest.mark.usefixtures("empty_folder")


def make(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", "make", *map(str, words)])


def contents(folder: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


def rows(folder: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metadata.jsonl").read_text().splitlines()]


def test_clips_captions_and_rows_agree() -> None:
    result = make("set", "--clips", 6, "--frames", 9, "--size", "64x48", "--fps", "23.976")
    assert (result.exit_code, result.stdout) == (0, "set\n"), result.stderr
    assert result.stderr == "6 clips, 6 of them new\n"
    assert len(rows("set")) == 6
    for row in rows("set"):
        clip = Path("set") / row["file_name"]
        assert clip.with_suffix(".txt").read_text() == row["caption"] + "\n"
        video = read_video(clip)
        assert video.frames.shape == (9, 48, 64, 3) and str(video.fps) == "2997/125"
        truth = Scene(row["background"], tuple(SceneObject(**thing) for thing in row["objects"]))
        assert read_scene(video.frames) == truth
        assert not is_held_out(truth.objects[0])


def test_going_on_gives_the_same_folder_as_one_run() -> None:
    for folder, counts in (("one", [11]), ("two", [3, 10, 11])):
        for count in counts:
            assert make(folder, "--clips", count, "--frames", 2, "--size", "32x16", "-q").exit_code == 0
    assert contents("one") == contents("two")
    Path("two/000004.mp4").unlink()
    part = Path(f"two/.000004.mp4.{'0' * 16}.part")
    part.write_bytes(b"what a killed writer leaves")
    part.with_name(f"{part.name}.lock").touch()
    result = make("two", "--clips", 11, "--frames", 2, "--size", "32x16")
    assert result.stderr == "11 clips, 1 of them new\n"
    assert contents("one") == contents("two")


def test_another_seed_is_another_folder() -> None:
    for seed in (0, 1):
        make(f"seed{seed}", "--clips", 4, "--frames", 1, "--size", "16x16", "--seed", seed, "-q")
    assert [row["seed"] for row in rows("seed0")] != [row["seed"] for row in rows("seed1")]
    result = make("seed0", "--clips", 4, "--frames", 1, "--size", "16x16", "--seed", 1)
    assert result.exit_code == 2
    assert result.stderr == "error: FOLDER: seed0 was begun with seed 0, now it is 1; name a new folder\n"


def test_the_world_can_be_narrowed_widened_and_held_out() -> None:
    words = "--shapes star --colours red,blue --backgrounds pink --motions circling,still --two-objects 1"
    make("narrow", "--clips", 12, "--frames", 2, "--size", "16x16", *words.split())
    for row in rows("narrow"):
        assert row["background"] == "pink" and len(row["objects"]) == 2
        assert {thing["motion"] for thing in row["objects"]} <= {"circling", "still"}
        assert {thing["colour"] for thing in row["objects"]} == {"red", "blue"}
        assert {thing["shape"] for thing in row["objects"]} == {"star"}
    make("held", "--clips", 5, "--frames", 1, "--size", "16x16", "-q", "--held-out")
    assert all(is_held_out(SceneObject(**row["objects"][0])) for row in rows("held"))
    make("short", "--clips", 9, "--frames", 1, "--size", "16x16", "-q", "--omit", 1)
    assert all(len(row["caption"].split()) == 2 for row in rows("short"))  # "a circle"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--size", "63x64"], "--size: sides must be even and from 16 to 8192 (given 63x64)"),
        (["--size", "64"], "--size: must be WIDTHxHEIGHT"),
        (["--fps", "0"], "--fps: must be a number or a fraction from 0.1 to 240"),
        (["--clips", "0"], "--clips: 0 is not in the range 1<=x<=10000000"),
        (["--motions", "lef"], "--motions: no 'lef'; did you mean 'left'?"),
        (["--colours", ""], "--colours: no ''; known are red, green"),
        (["--colours", "red", "--two-objects", "0.5"], "--two-objects: needs two colours"),
        (
            ["--motions", "rotating", "--shapes", "circle"],
            "--motions: these words leave no training combination",
        ),
        (
            ["--colours", "red", "--shapes", "circle", "--motions", "left"],
            "--motions: these words leave no training",
        ),
        (
            ["--colours", "red", "--shapes", "circle", "--motions", "right", "--held-out"],
            "--motions: these words leave",
        ),
    ],
)
def test_refusals(empty_folder: Path, words: list[str], expected: str) -> None:
    result = make("set", "--clips", 2, *words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: {expected}"), result.stderr
    assert list(empty_folder.iterdir()) == []


def test_folders_above_are_made() -> None:
    assert make("new/deep/set", "--clips", 1).stdout == "new/deep/set\n"
    assert len(rows("new/deep/set")) == 1


def test_a_folder_of_something_else_is_left_alone(empty_folder: Path) -> None:
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"meow")
    result = make("photos", "--clips", 2)
    assert result.exit_code == 2 and "photos holds other files; name a new or empty folder" in result.stderr
    assert set(contents("photos")) == {"cat.jpg"}
    for place in ("photos/cat.jpg", "photos/cat.jpg/set"):
        assert make(place, "--clips", 2).stderr.endswith("is a file; name another\n")
    Path("photos/dataset.json").write_text("[1")
    assert "dataset.json is damaged" in make("photos", "--clips", 2).stderr


def test_an_interrupted_folder_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import video_diffusion.video as io

    written, real = [], io.write_video

    def interrupted(*arguments: object, **options: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        real(*arguments, **options)

    monkeypatch.setattr(io, "write_video", interrupted)
    result = make("set", "--clips", 5, "--frames", 1, "--size", "16x16")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[0] == "the same command goes on where this one stopped"
    assert sorted(contents("set"))[:5] == [
        "000000.mp4",
        "000000.txt",
        "000001.mp4",
        "000001.txt",
        "000002.txt",
    ]
    assert "metadata.jsonl" not in contents("set")
    assert len(list(iter_frames("set/000001.mp4"))) == 1
