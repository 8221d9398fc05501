"""Lines of any length fit their box; peaks and holes stay."""

import math
import re

from video_diffusion.web import Line, LineChart, draw_line_chart
from video_diffusion.web.charts import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH


def drawn(*lines: Line, log: bool = False) -> LineChart:
    return draw_line_chart("Loss", lines, x_label="step", y_label="MSE", log=log)


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_the_first_and_last_step_lie_at_the_edges_and_more_is_higher():
    chart = draw_line_chart(
        "Loss", [Line("train", [(0, 3.0), (10, 1.0), (40, 2.0)])], x_label="step", y_label="MSE"
    )
    (x0, y0), (x1, y1), (x2, y2) = points_of(chart.lines[0].path)
    assert (x0, x2) == (LEFT, WIDTH - RIGHT) and x1 == LEFT + (WIDTH - RIGHT - LEFT) / 4
    assert TOP <= y0 < y2 < y1 <= HEIGHT - BOTTOM
    assert chart.lines[0].last == "2"


def test_holes_stay_open_and_faint_lines_have_no_number():
    raw = [(0.0, 1.0), (1.0, math.nan), (2.0, 4.0), (3.0, 2.0)]
    chart = draw_line_chart(
        "x", [Line("raw", raw, faint=True), Line("mean", raw[2:])], x_label="", y_label=""
    )
    assert chart.lines[0].path.count("M") == 2 and chart.lines[0].path.count("L") == 1
    assert [line.number for line in chart.lines] == [0, 1]


def test_long_lines_are_thinned_and_keep_every_peak():
    long = [(float(step), 1.0 + (7.0 if step == 7777 else 0.0)) for step in range(20_000)]
    chart = drawn(Line("raw", long))
    points = points_of(chart.lines[0].path)
    assert len(points) <= MOST_POINTS + 2
    assert min(y for _, y in points) < TOP + 20 < max(y for _, y in points)


def test_logarithmic_charts_leave_out_what_has_no_logarithm():
    chart = draw_line_chart(
        "x", [Line("a", [(0, 10.0), (1, 0.0), (2, 1.0), (3, 0.1)])], x_label="", y_label="", log=True
    )
    ys = [y for _, y in points_of(chart.lines[0].path)]
    assert len(ys) == 3 and abs((ys[1] - ys[0]) - (ys[2] - ys[1])) < 0.05
    assert {"10", "1", "0.1"} <= {text for _, text in chart.y_ticks}


def test_nothing_to_draw():
    chart = draw_line_chart(
        "x", [Line("a", []), Line("b", [(0.0, math.nan)])], x_label="", y_label="", log=True
    )
    assert [line.path for line in chart.lines] == ["", ""] and [line.last for line in chart.lines] == [
        "—",
        "—",
    ]
