"""What `measure --csv` prints, for names that a spreadsheet would take for something else too."""

import csv
import io
import json
from pathlib import Path

import pytest
from measured_clips import run

pytestmark = pytest.mark.usefixtures("clean_and_flickering")


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
