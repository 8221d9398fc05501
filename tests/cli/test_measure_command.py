"""`measure`: what it prints and draws, in one process or several, and what it says of bad files."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from video_diffusion.cli.main import main
from video_diffusion.cli.measure_files import Request, measure_file
from video_diffusion.cli.measure_pictures import worst_frames
from video_diffusion.io import read_video, write_video
from video_diffusion.metrics import ALL_METRICS, measure
from video_diffusion.metrics.distortions import DISTORTIONS
from video_diffusion.metrics.synthetic_clips import clean_clip

CLEAN = clean_clip("pebbles", "pan", 2, 12, 48, 64).frames
FLICKERING = DISTORTIONS["local flicker"].apply(CLEAN, 16)


@pytest.fixture(autouse=True)
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("clean.mp4", CLEAN, Fraction(8), codec="libx264rgb")
    write_video("flickering.mp4", FLICKERING, Fraction(8), codec="libx264rgb")
    return tmp_path


def run(*words):
    return CliRunner().invoke(main, ["measure", *map(str, words)])


def ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


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
    names += "duplicate_pairs cuts seam_excess drift flash_safety sharpness mean_luma"
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


def test_csv_has_a_row_for_each_clip_failed_ones_too():
    Path("bad.mp4").write_bytes(b"")
    result = run("clean.mp4", "bad.mp4", "--csv", "--metrics", "flicker,drift", "-q")
    assert result.exit_code == 1
    clean, bad = csv.DictReader(io.StringIO(result.stdout))
    assert (clean["path"], clean["num_frames"], clean["fps"], clean["flicker_status"]) == (
        "clean.mp4",
        "12",
        "8.0",
        "ok",
    )
    assert float(clean["flicker"]) < 0.5
    assert clean["warp_psnr"] == ""
    assert "0 bytes" in bad["error"]
    assert bad["flicker"] == ""


def test_a_name_that_a_spreadsheet_would_compute_is_text_in_csv_and_as_it_is_in_json():
    Path("=1+1.mp4").write_bytes(b"")
    (row,) = csv.DictReader(io.StringIO(run("=1+1.mp4", "--csv", "-q").stdout))
    assert row["path"] == "'=1+1.mp4" and row["error"].startswith("=1+1.mp4: ") is False
    assert json.loads(run("=1+1.mp4", "--json", "-q").stdout)["path"] == "=1+1.mp4"


def test_a_line_break_in_a_name_stays_in_its_cell_of_the_csv():
    Path("a\nb.mp4").write_bytes(b"")
    (row,) = csv.DictReader(io.StringIO(run("a\nb.mp4", "--csv", "-q").stdout))
    assert row["path"] == "a\nb.mp4"


def test_against_shows_the_difference_of_two_clips():
    facts = json.loads(run("flickering.mp4", "--against", "clean.mp4", "--json").stdout)
    one, two = (
        measure(read_video(f"{name}.mp4").frames, 8).values["flicker"].value
        for name in ("flickering", "clean")
    )
    assert facts["metrics"]["flicker"]["difference"] == pytest.approx(one - two)
    assert (facts["path"], facts["against"]) == ("flickering.mp4", "clean.mp4")
    table = run("flickering.mp4", "--against", "clean.mp4").stdout
    assert re.search(r"flicker .* \+\d.*levels +10 of 10", table)
    same = json.loads(run("clean.mp4", "--against", "clean.mp4", "--json").stdout)
    assert {measured["difference"] for measured in same["metrics"].values()} <= {0, None}


def test_against_needs_clips_of_equal_length():
    write_video("short.mp4", CLEAN[:7], Fraction(8))
    result = run("clean.mp4", "--against", "short.mp4")
    assert result.exit_code == 2
    assert "clean.mp4 has 12 frames and short.mp4 7" in result.stderr


def test_a_clip_with_a_record_shows_what_encoding_changed(tiny_model):
    made = CliRunner().invoke(
        main, ["generate", "a red circle", "--model", str(tiny_model), "-o", "c.mp4", "-q"]
    )
    assert made.exit_code == 0
    recorded = json.loads(Path("c.json").read_text())["measures"]
    facts = json.loads(run("c.mp4", "--json").stdout)
    for name in ("flicker", "raw_flicker", "sharpness"):
        assert facts["before_encoding"][name] == recorded[name]["value"]
        assert facts["after_minus_before_encoding"][name] == pytest.approx(
            facts["metrics"][name]["value"] - recorded[name]["value"]
        )
    assert "after minus before encoding: raw_flicker " in run("c.mp4").stdout
    assert "this, after minus before encoding" in run("c.mp4", "--against", "c.mp4").stdout


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


def bad_files():
    """Every kind of file that is no clip, by name, with what must be said of it."""
    Path("empty.mp4").write_bytes(b"")
    Path("text.mp4").write_text("only text\n" * 50)
    Path("playlist.mp4").write_text("#EXTM3U\n#EXTINF:10,\nclean.mp4\n#EXT-X-ENDLIST\n")
    Path("concat.mp4").write_text("ffconcat version 1.0\nfile clean.mp4\n")
    Image.fromarray(CLEAN[0]).save("picture.png")
    Path("renamed.mp4").write_bytes(Path("picture.png").read_bytes())
    write_video("one.mp4", CLEAN[:1], Fraction(8))
    ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", "0.2", "audio.m4a")
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)
    write_video("whole.mp4", noise, Fraction(8))
    Path("cut.mp4").write_bytes(Path("whole.mp4").read_bytes()[:-9000])
    ffmpeg("-i", "clean.mp4", "-c:v", "ffv1", "huge.mkv")
    header = Path(
        "huge.mkv"
    ).read_bytes()  # PixelWidth 64, PixelHeight 48; now the width takes two bytes, 65535
    Path("huge.mkv").write_bytes(header.replace(b"\xb0\x81\x40\xba\x81\x30", b"\xb0\x82\xff\xff\xba\x81", 1))
    os.mkfifo("fifo.mp4")
    Path("folder").mkdir()
    return {
        "empty.mp4": "is empty (0 bytes)",
        "text.mp4": "not a plain video file",
        "playlist.mp4": "not a plain video file",
        "concat.mp4": "not a plain video file",
        "data:,x.mp4": "no such file",
        "renamed.mp4": "not a plain video file",
        "picture.png": "has 1 frame; needs at least 2",
        "one.mp4": "has 1 frame; needs at least 2",
        "audio.m4a": "no video stream in it (only audio)",
        "cut.mp4": "cut off",
        "huge.mkv": "is 65535x",
        "fifo.mp4": "is not a regular file",
        "folder": "holds no images",
        "none.mp4": "no such file",
    }


def test_every_file_that_is_no_clip_has_its_line_and_the_others_are_measured():
    expected = bad_files()
    result = run("clean.mp4", *expected, "flickering.mp4", "-q")
    assert result.exit_code == 1
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == ["clean.mp4", "flickering.mp4"]
    *errors, count = result.stderr.splitlines()
    for (name, reason), line in zip(expected.items(), errors, strict=True):
        assert line.startswith(f"error: {name}"), line
        assert reason in line, line
    assert count == f"{len(expected)} of {len(expected) + 2} clips could not be measured"


def test_what_is_left_of_a_truncated_clip_is_measured_when_asked():
    bad_files()
    result = run("cut.mp4", "--allow-truncated", "--json")
    assert result.exit_code == 0
    assert 2 <= json.loads(result.stdout)["num_frames"] < 24
    assert "cut off" in result.stderr


def odd_files():
    """Unusual clips that are measured, with the note that each deserves (empty for none)."""
    ffmpeg("-i", "clean.mp4", "-vf", "crop=63:47,format=yuv444p", "odd.mkv")
    ffmpeg("-i", "clean.mp4", "-pix_fmt", "yuv420p10le", "-colorspace", "bt709", "ten.mkv")
    ffmpeg("-i", "clean.mp4", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "alpha.webm")
    ffmpeg("-i", "clean.mp4", "-pix_fmt", "yuv420p", "plain.mp4")
    ffmpeg("-display_rotation", 90, "-i", "plain.mp4", "-c", "copy", "rotated.mp4")
    ffmpeg("-i", "clean.mp4", "clip.gif")
    with av.open("vfr.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for tick, pixels in zip([0, 1, 2, 10, 11, 30, 31, 32, 40], CLEAN, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {
        "odd.mkv": "", "ten.mkv": "", "alpha.webm": "transparency is dropped", "clip.gif": "",
        "rotated.mp4": "turned upright", "vfr.mp4": "variable frame rate",
    }  # fmt: skip


def test_unusual_clips_are_measured_with_a_note_of_what_was_done():
    notes = odd_files()
    result = run(*notes, "--json")
    assert result.exit_code == 0, result.stderr
    facts = {line["path"]: line for line in map(json.loads, result.stdout.splitlines())}
    for name, note in notes.items():
        assert any(note in told for told in facts[name].get("notes", [""])), (name, facts[name])
    assert (facts["odd.mkv"]["width"], facts["odd.mkv"]["height"]) == (63, 47)
    assert (facts["rotated.mp4"]["width"], facts["rotated.mp4"]["height"]) == (48, 64)
    assert facts["vfr.mp4"]["num_frames"] == 9  # the ffmpeg program would have made 41 of them
    assert facts["vfr.mp4"]["metrics"]["duplicate_pairs"]["value"] == 0
    assert facts["vfr.mp4"]["metrics"]["luma_spectrum"]["status"] == "unmeasurable"
    assert facts["ten.mkv"]["metrics"]["flicker"]["value"] < 1


LONG_WALK = """
import resource
from fractions import Fraction
import cv2
import numpy as np
from video_diffusion.metrics import ALL_METRICS, Measurement
from video_diffusion.metrics.optical_flow import DisFlow

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
