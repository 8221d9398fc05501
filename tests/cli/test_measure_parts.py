"""A part of a clip, a set of clips, held frames, morphing and VBench's layout, by the command."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from measured_clips import CLEAN, FLICKERING, run
from synthetic_clips import clean_clip, moving_square

from video_diffusion.cli.measure_files import Request, measure_file
from video_diffusion.metrics import measure
from video_diffusion.video import write_video

pytestmark = pytest.mark.usefixtures("clean_and_flickering")
LOSSLESS = {"codec": "libx264rgb"}


def values(*words):
    (line,) = run(*words, "--json").stdout.splitlines()
    return {name: each["value"] for name, each in json.loads(line)["metrics"].items()}


def test_a_part_of_a_grid_measures_as_the_clip_that_stands_there():
    write_video("grid.mp4", np.concatenate([CLEAN, FLICKERING], axis=2), Fraction(8), **LOSSLESS)
    expected = {name: each.value for name, each in measure(FLICKERING, 8).values.items()}
    assert values("grid.mp4", "--crop", "64,0,64,48") == expected
    refused = run("grid.mp4", "--crop", "100,0,64,48")
    assert (refused.exit_code, "is 128x48; --crop 100,0,64,48 reaches beyond it" in refused.stderr) == (
        1,
        True,
    )
    for text in ("1,2,3", "0,0,0,9", "a,b,c,d", "-1,0,5,5"):
        assert run("grid.mp4", "--crop", text).exit_code == 2


def test_a_held_clip_says_so_and_measures_as_its_distinct_frames():
    write_video("held.mp4", np.repeat(FLICKERING, 3, axis=0), Fraction(24), **LOSSLESS)
    told = "each frame is shown 3 times; measured on the 12 distinct ones, 8 per second"
    result = run("held.mp4")
    assert told in result.stdout
    assert told in result.stderr
    held, expected = values("held.mp4"), measure(FLICKERING, 8).values
    for name, measured in expected.items():
        if name != "duplicate_pairs":
            assert held[name] == measured.value, name
    facts = json.loads(run("held.mp4", "--json").stdout)
    assert (facts["held_frames"], facts["distinct_fps"]) == (24, 8)


def test_a_sample_of_a_held_clip_is_of_triples_of_distinct_frames():
    frames = np.repeat(clean_clip("pebbles", "pan", 2, 40, 48, 64).frames, 2, axis=0)
    write_video("long.mp4", frames, Fraction(16), **LOSSLESS)
    report = measure_file("long.mp4", Request(sample=4)).report
    assert report.values["motion"].value == pytest.approx(2 * 256 / 48, rel=0.1)
    assert len([value for value in report.values["flicker"].series if value is not None]) == 4


def test_the_worst_triples_by_morph_are_where_it_goes_to_and_fro():
    outline = [0, 0, 0, 0, 0, 6, -6, 0, 0, 0, 0, 0]
    write_video("square.mp4", moving_square(outline, 96), Fraction(8), **LOSSLESS)
    result = run("square.mp4", "--worst", 2, "--worst-by", "morph", "--metrics", "morph")
    assert result.exit_code == 0
    assert Path("square-worst.png").exists()
    worst = measure_file("square.mp4", Request(worst=1, worst_by="morph")).worst[0]
    assert worst.index in {5, 6}
    assert worst.morph.max() > 1
    assert worst.numbers == (worst.index - 1, worst.index, worst.index + 1)


def test_threads_do_not_change_the_output():
    alone, together = (run("flickering.mp4", "--json", "--series", "--threads", count) for count in (1, 4))
    assert alone.stdout == together.stdout


@pytest.mark.full
def test_two_sets_of_clips_are_held_against_each_other():
    for folder, speed in (("mine", 1), ("data", 3)):
        Path(folder).mkdir()
        for number in range(4):
            frames = clean_clip("pebbles", "pan", speed + number / 10, 5, 48, 64).frames
            write_video(f"{folder}/{number}.mp4", frames, Fraction(8), **LOSSLESS)
    result = run("mine/*.mp4", "--set", "data")
    assert result.exit_code == 0
    line = result.stdout.splitlines()[-1]
    assert line.startswith("motion of 4 clips against 4: distance ")
    assert "clips of the same name are" in line
    distance = json.loads(run("mine/*.mp4", "--set", "data", "--json").stdout.splitlines()[-1])[
        "set_distance"
    ]
    assert distance["distance"] > 0.3
    same = json.loads(run("data/*.mp4", "--set", "data", "--json").stdout.splitlines()[-1])["set_distance"]
    assert same["paired"] == 0
    assert "at least 4 clips" in run("clean.mp4", "--set", "data").stderr


def test_clips_are_laid_out_as_vbench_reads_its_custom_input():
    Path("more").mkdir()
    write_video("more/clean.mp4", CLEAN, Fraction(8))
    write_video("clip.gif", CLEAN, Fraction(8))
    result = run("clean.mp4", "more/clean.mp4", "clip.gif", "--vbench", "out", "--metrics", "mean_luma")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "clean-0.mp4",
        "clean-1.mp4",
        "prompts.json",
    ]
    prompts = json.loads(Path("out/prompts.json").read_text())
    assert prompts == {str(Path(f"out/clean-{number}.mp4").resolve()): "clean" for number in (0, 1)}
    assert Path("out/clean-0.mp4").read_bytes() == Path("clean.mp4").read_bytes()
    assert "clip.gif: VBench reads MP4 only" in result.stderr


@pytest.mark.parametrize("folder", ["", "nowhere/out", "dangling", "clean.mp4", "x/" * 2000 + "y"])
def test_a_place_where_nothing_can_be_laid_out_is_refused_before_measuring(folder: str) -> None:
    """Symptom: a dangling link was told after all the work, 2,000 folders deep as a RecursionError."""
    Path("dangling").symlink_to("none")
    result = run("clean.mp4", "--vbench", folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --vbench: ")
