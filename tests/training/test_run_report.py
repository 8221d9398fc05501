"""The page of a run: losses as lines, the same clips over time, inert prompts, holes shown as holes."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_diffusion.training.report import (
    REPORT_FILE,
    clip_rows,
    held_out_chart,
    loss_chart,
    motion_chart,
    write_report,
)
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.validation import Validation, what_changed
from video_diffusion.video import write_video

PROMPT = "</script><img src=x onerror=alert(1)> \x1b[2J"


def a_validation(folder: Path, step: int, loss: float | None, lost: bool = False) -> Validation:
    file = f"validation/step-{step:08}/00 a#b.mp4"
    if not lost:
        (folder / file).parent.mkdir(parents=True)
        write_video(folder / file, np.full((3, 32, 48, 3), 50 + step, np.uint8), Fraction(8))
    size = {"num_frames": 3, "height": 32, "width": 48, "fps": 8.0}
    clip = {
        "file": file,
        "prompt": PROMPT,
        "seed": 4,
        "size": size,
        "measures": {"flicker": None, "motion": 1.25},
    }
    quarters = (0.1, 0.2, 0.3, 0.4) if loss is not None else ()
    return Validation(step, loss, quarters, {"flicker": 0.5}, (clip,))


def test_the_page_of_a_run(tmp_path: Path):
    run = RunFolder(tmp_path)
    run.append(a_validation(tmp_path, 0, 0.9).to_row())
    for step in range(1, 8):
        run.append({"step": step, "loss": 1.0 / step})
    run.append(a_validation(tmp_path, 7, 0.5).to_row())
    write_report(run, "a run <b>", {"model": PROMPT})
    page = (tmp_path / REPORT_FILE).read_text()
    assert page.count("<script>") == page.count("</script>") == 1 and "<img src=x" not in page
    assert "a run &lt;b&gt;" in page and "\x1b" not in page
    assert re.findall(r'data-src="([^"]+)"', page) == [
        f"./validation/step-{step:08}/00%20a%23b.mp4" for step in (0, 7)
    ]
    assert page.index("data-row") < page.rindex("data-player-bar role")  # the bar stays at the window's foot
    assert (
        page.count('class="line line-0"') == 2 and page.count('class="line line-4"') == 2
    )  # with their keys


def test_a_run_that_has_hardly_begun_has_no_empty_charts(tmp_path: Path):
    run = RunFolder(tmp_path)
    write_report(run, "new", {})
    page = (tmp_path / REPORT_FILE).read_text()
    assert "still training" in page and 'class="chart' not in page and "<section data-player>" not in page


def test_losses_are_lines_over_the_steps(tmp_path: Path):
    rows = [{"step": step, "loss": float(step % 2)} for step in range(1, 40)] + [{"step": 40, "loss": None}]
    each, mean = loss_chart(rows).lines
    assert (each.number, mean.number) == (0, 1) and each.last == "1" and 0.1 < float(mean.last) < 0.9
    found = held_out_chart(
        [a_validation(tmp_path, 0, 0.9), a_validation(tmp_path, 5, None), a_validation(tmp_path, 9, 0.4)]
    )
    assert [line.name for line in found.lines] == ["least noise", "some noise", "much noise", "most noise"]
    assert [line.last for line in found.lines] == ["0.1", "0.2", "0.3", "0.4"]
    assert not held_out_chart([]).lines and not loss_chart([]).lines


def test_a_row_of_clips_has_first_last_and_some_between_and_tells_what_is_lost(tmp_path: Path):
    steps = [a_validation(tmp_path, step, 0.5, lost=step == 3) for step in range(11)]
    (row,) = clip_rows(steps, tmp_path)
    assert (row["prompt"], row["seed"]) == (PROMPT, 4)
    assert [view.title for view in row["views"]] == [
        "before training",
        *(f"step {step}" for step in (2, 4, 6, 8, 10)),
    ]
    assert row["views"][0].facts["flicker"] == "—" and row["views"][0].facts["motion"] == "1.25"
    (row,) = clip_rows(steps[2:5], tmp_path)
    assert [view.problem for view in row["views"]] == ["", "The file is not there", ""]


def test_the_distance_from_how_held_out_clips_move_is_a_line_with_its_interval(tmp_path: Path):
    found = [
        replace(
            a_validation(tmp_path, step, None),
            motion_distance={"distance": far, "low": far - 0.1, "high": far + 0.1, "p": 0.01},
        )
        for step, far in ((0, 0.8), (9, 0.2))
    ]
    assert len(motion_chart(found).lines) == 3
    assert not motion_chart([a_validation(tmp_path, 10, None)]).lines
    assert "move 0.800 before, 0.200 after" in what_changed(*found)
    assert Validation.from_row(found[1].to_row()) == found[1]
