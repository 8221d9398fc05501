"""What `measure` prints: a table, rows, JSON, its progress; and which flags it refuses."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from measured_clips import CLEAN, FLICKERING, run
from PIL import Image

from video_diffusion.metrics import ALL_METRICS, measure
from video_diffusion.video import read_video

pytestmark = pytest.mark.usefixtures("clean_and_flickering")


def test_one_clip_is_a_table_with_every_metric_and_flicker_has_its_companions():
    result = run("flickering.mp4")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("flickering.mp4\n12 frames of 64×48 at 8 per second, flow: DIS\n")
    for metric in ALL_METRICS:
        assert f"\n  {metric.name} " in result.stdout
    for group in ("flicker", "morph", "drift", "motion", "sharpness"):
        assert f"\n{group}\n" in result.stdout


def test_json_is_what_the_python_function_gives_for_the_frames_of_the_file():
    result = run("flickering.mp4", "--json", "--series")
    facts = json.loads(result.stdout)
    expected = measure(read_video("flickering.mp4").frames, 8).to_json()
    assert facts == {"path": "flickering.mp4", **expected}
    assert {"schema_version", "path", "num_frames", "fps", "width", "height", "metrics"} <= set(facts)
    names = "raw_flicker flicker luma_flicker luma_spectrum warp_psnr warp_ssim flow_jitter motion coverage "
    names += "morph duplicate_pairs cuts seam_excess drift flash_safety sharpness steady_sharpness"
    names += " mean_luma"
    assert set(facts["metrics"]) == set(names.split())
    short = json.loads(run("flickering.mp4", "--json").stdout)
    assert "series" not in short["metrics"]["flicker"]
    assert short["metrics"]["flicker"]["value"] == facts["metrics"]["flicker"]["value"]


def test_many_clips_are_a_row_each_in_order_and_a_bad_one_does_not_stop_the_others():
    Path("bad.mp4").write_text("no clip")
    for jobs in (1, 2):
        result = run("*.mp4", "--jobs", jobs)
        assert result.exit_code == 1
        header, clean, flickering = result.stdout.splitlines()
        for name in ("flicker", "motion", "sharpness", "mean_luma"):
            assert name in header.split()
        assert clean.split()[-2:] == ["ok", "clean.mp4"]
        assert float(flickering.split()[0]) > 3 > float(clean.split()[0])
        error, count = result.stderr.splitlines()
        assert error.startswith("error: bad.mp4: not a plain video file")
        assert count == "1 of 3 clips could not be measured"


def test_a_sample_says_so_and_agrees_with_the_whole_clip_at_its_triples():
    facts = json.loads(run("flickering.mp4", "--sample", 2, "--json", "--series").stdout)
    assert (facts["num_frames"], facts["sampled_triples"]) == (12, 2)
    assert facts["frame_numbers"] == [0, 1, 2, 9, 10, 11]
    whole = measure(FLICKERING, 8).values["flicker"].series
    assert facts["metrics"]["flicker"]["series"] == [None, whole[1], None, None, whole[10], None]
    assert facts["metrics"]["drift"]["status"] == "unmeasurable"
    assert "sampled: 2 evenly spaced triples" in run("flickering.mp4", "--sample", 2).stdout
    assert "sampled_triples" not in json.loads(run("clean.mp4", "--sample", 4, "--json").stdout)


def test_folders_patterns_and_window_starts():
    Path("frames").mkdir()
    for index, frame in enumerate(CLEAN[:8]):
        Image.fromarray(frame).save(f"frames/{index}.png")
    result = run("frames", "--fps", "24000/1001", "--window-starts", "4", "--json")
    facts = json.loads(result.stdout)
    assert facts["fps"] == pytest.approx(24000 / 1001)
    assert facts["metrics"]["seam_excess"]["status"] == "ok"
    assert facts["metrics"]["flicker"]["value"] == measure(CLEAN[:8], 8).values["flicker"].value
    assert "8 fps is assumed" in run("frames").stderr
    outside = run("frames", "--window-starts", "4,8")
    assert (outside.exit_code, "--window-starts 8" in outside.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--json", "--csv"), "exclude each other"),
        (("--series",), "belongs to --json"),
        (("--sheet", "a.png"), "--worst N"),
        (("--plot", "a.pdf"), "must end in .svg or .png"),
        (("--plot", "none/a.svg"), "no such folder"),
        (("--metrics", "fliker"), "'fliker'; choose from"),
        (("--fps", "0"), "must be a number above 0"),
        (("--window-starts", "a"), "frame numbers such as"),
        (("--against", "clean.mp4", "--csv"), "no --csv"),
        (("clean.mp4", "--plot", "a.svg"), "are for one CLIP"),
        (("--jobs", "0"), "jobs"),
    ],
)
def test_flags_that_make_no_sense_are_refused_before_anything_is_read(words, message):
    result = run("flickering.mp4", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


LONG_WALK = """
import resource
from fractions import Fraction
import cv2
import numpy as np
from video_diffusion.metrics import ALL_METRICS, Measurement
from video_diffusion.metrics.flow import DisFlow

cv2.setNumThreads(1)
frames = np.random.default_rng(1).integers(0, 256, (16, 16, 24, 3), dtype=np.uint8)
measurement = Measurement(ALL_METRICS, DisFlow())
for index in range(3000):
    measurement.add(index, index / 24, frames[index % 16])
    if index in (1000, 2999):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
measurement.report(Fraction(24), keep_series=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.full
def test_memory_hardly_grows_with_the_length_of_the_clip():
    done = subprocess.run([sys.executable, "-c", LONG_WALK], check=True, capture_output=True, text=True)
    after_1000, after_3000, at_the_end = map(int, done.stdout.split())
    assert after_3000 - after_1000 < 1500  # KiB; 2000 frames of 1152 bytes would alone be 2250
    assert at_the_end - after_1000 < 2000


def test_progress_is_shown_on_a_terminal_only():
    controller, terminal = pty.openpty()
    program = [sys.executable, "-m", "video_diffusion", "measure", "clean.mp4"]
    with os.fdopen(terminal, "w") as stderr:
        subprocess.run(program, check=True, stdout=subprocess.PIPE, stderr=stderr)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert "frame 12/12 [" in shown
