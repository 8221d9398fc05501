"""What `measure` draws: curves with the worst frames marked, and the triples that flicker most."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from measured_clips import CLEAN, FLICKERING, run
from PIL import Image
from synthetic_clips import clean_clip

from video_diffusion.cli.measure_files import Request, measure_file
from video_diffusion.cli.measure_output import worst_frames
from video_diffusion.metrics import measure
from video_diffusion.video import read_video, write_video

pytestmark = pytest.mark.usefixtures("clean_and_flickering")


@pytest.mark.full
def test_curves_are_drawn_with_the_worst_frames_marked():
    assert run("flickering.mp4", "--plot", "curves.svg").exit_code == 0
    text = Path("curves.svg").read_text()
    report = measure(FLICKERING, 8)
    assert text.count("<svg") == 1
    assert run("flickering.mp4", "--plot", "curves.png", "--metrics", "drift").exit_code == 0
    with Image.open("curves.png") as picture:
        assert min(picture.size) > 200
    series = report.values["flicker"].series
    assert series[worst_frames(report)[0]] == max(value for value in series if value is not None)


@pytest.mark.full
def test_the_worst_triples_show_where_it_flickers():
    result = run("flickering.mp4", "--worst", 2, "--sheet", "worst.png")
    assert result.stderr == "the worst triples are in worst.png\n"
    with Image.open("worst.png") as picture:
        assert min(picture.size) > 200
    worst = measure_file("flickering.mp4", Request(worst=2)).worst
    assert [triple.level for triple in worst] == sorted((triple.level for triple in worst), reverse=True)
    first = worst[0]
    assert np.array_equal(first.frames[1], read_video("flickering.mp4").frames[first.index])
    assert first.residual[4:20, 4:28].mean() > 10 * first.residual[28:, 36:].mean()
    assert run("clean.mp4", "--worst", 1, "-q").exit_code == 0
    assert Path("clean-worst.png").exists()


def test_a_clip_of_two_frames_has_curves_but_no_triple_to_draw():
    write_video("two.mp4", CLEAN[:2], Fraction(8))
    result = run("two.mp4", "--worst", 1, "--plot", "two.svg")
    assert (result.exit_code, result.stderr) == (0, "note: two.mp4: has no triple of frames to draw\n")
    assert Path("two.svg").exists() and not Path("two-worst.png").exists()


def test_triples_across_a_cut_are_not_the_worst():
    other = clean_clip("bricks", "rotation", 2, 9, 48, 64).frames
    write_video("cut.mp4", np.concatenate([CLEAN, other]), Fraction(8), codec="libx264rgb")
    measured = measure_file("cut.mp4", Request(worst=30))
    assert measured.report.values["cuts"].value == 1
    assert {triple.index for triple in measured.worst} == set(range(1, 11)) | set(range(13, 20))
