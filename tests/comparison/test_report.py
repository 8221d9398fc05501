"""The report as a file: nothing but itself and its clips, everything escaped, holes shown as holes."""

import base64
import hashlib
import html
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rc_context, rcParams
from painted_comparison import HOSTILE, painted_comparison

from video_diffusion.comparison.charts import SHARPNESS, draw_charts, pair_differences, write_plots
from video_diffusion.comparison.report import render_report, write_folder, write_report
from video_diffusion.comparison.summary import (
    Axis,
    ClipMeasure,
    ComparisonSummary,
    Difference,
    MetricSummary,
    Span,
    arm_badges,
)
from video_diffusion.comparison.tables import arm_rows, tone_of
from video_diffusion.comparison.verdict import Findings, summarise
from video_diffusion.metrics import ALL_METRICS

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonSummary, Path]:
    folder = tmp_path_factory.mktemp("painted")
    summary = painted_comparison(folder)
    write_report(lean(summary), folder)
    return summary, folder


@pytest.fixture(scope="module")
def page(made: tuple[ComparisonSummary, Path]) -> Page:
    return Page((made[1] / "report.html").read_text())


def lean(summary: ComparisonSummary) -> ComparisonSummary:
    """Without the metrics that only describe: fewer plots to draw."""
    return replace(summary, metrics=tuple(metric for metric in summary.metrics if metric.role != "other"))


def drawn(summary: ComparisonSummary, name: str, links=None):
    """One chart, and its SVG parsed."""
    chart = next(chart for chart in draw_charts(summary, links or {}) if chart.name == name)
    return chart, ElementTree.fromstring(chart.svg)


def marks_of(svg: ElementTree.Element, gid: str) -> list[ElementTree.Element]:
    """The marks in the group of this id."""
    return list(next(group for group in svg.iter(f"{SVG}g") if group.get("id") == gid).iter(f"{SVG}use"))


def few(summary: ComparisonSummary) -> ComparisonSummary:
    """Flicker and motion alone: all that the Pareto plot needs."""
    return replace(summary, metrics=tuple(m for m in summary.metrics if m.name in {"flicker", "motion"}))


def test_page_holds_one_script_and_one_style_and_allows_them_by_hash_alone(page: Page, made):
    text = (made[1] / "report.html").read_text()
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    for tag in ("script", "style"):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.tags for name in attrs)


def test_hostile_texts_add_no_element(page: Page):
    assert not page.all("b") and not page.all("iframe") and len(page.all("script")) == 1
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    shown = " ".join(page.texts)
    assert HOSTILE[0] in shown and HOSTILE[1] in shown and HOSTILE[3] in shown
    assert "<U+202E>reversed<U+202C> ␛[2J and 🦊\u200d🔥" in shown and "\x1b" not in shown


def test_every_link_stays_beside_the_page(page: Page, made):
    links = [attrs.get("href", "") for tag, attrs in page.tags if tag in {"a", "link"}]
    clips = [video["data-src"] for video in page.all("video")]
    assert all(link.startswith(("#", "./", "plots/", "data:,")) for link in links), links
    assert len(clips) == 24 and all((made[1] / unquote(clip)).is_file() for clip in clips)
    assert clips[0] == "./clips/a%23b%20100%25%3F%200-0-0.mp4"


def test_clips_are_lazy_with_a_poster_and_a_slice(page: Page):
    videos, slices = page.all("video"), [image for image in page.all("img") if image["class"] == "slice"]
    assert all(v["preload"] == "none" and "src" not in v and v["poster"] for v in videos)
    assert all({"muted", "playsinline"} <= set(v) and v["aria-label"] for v in videos)
    assert len(slices) == 24 and all(image["loading"] == "lazy" for image in slices)


def test_the_same_summary_gives_the_same_bytes(made, tmp_path: Path):
    summary, folder = made
    assert render_report(lean(summary), folder) == (folder / "report.html").read_text()
    write_plots(draw_charts(few(summary), {}), tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [
        f"{name}{suffix}"
        for name in ("pareto", "strip-flicker", "strip-motion")
        for suffix in (".png", ".svg")
    ]
    for name in written:
        assert (tmp_path / name).read_bytes() == (folder / "plots" / name).read_bytes()


def test_missing_damaged_and_failed_clips_are_cells_that_say_so(made, tmp_path: Path):
    summary, folder = made
    shutil.copytree(folder / "clips", tmp_path / "clips")
    (tmp_path / summary.clips[0].path).unlink()
    (tmp_path / summary.clips[1].path).write_bytes(b"not a clip")
    failed = replace(summary.clips[2], path="", error="non-finite latents at step 3 <of 12>", measures={})
    clips = (*summary.clips[:2], failed, *summary.clips[4:])  # and one that is not there at all
    text = html.unescape(render_report(replace(lean(summary), clips=clips), tmp_path))
    assert text.count('class="screen absent"') == 4
    for words in ("The file is not there", "Cannot be read", failed.error, "It was not made"):
        assert words in text


def test_what_could_not_be_measured_is_a_dash_and_never_zero(made):
    summary = made[0]
    metric = summary.metrics[0]
    empty = replace(metric.differences[0], span=None, p=None, adjusted_p=None, relative=math.nan, median=None)
    holes = replace(metric, differences=(empty, *metric.differences[1:]), noise_floor=None)
    rows = arm_rows(replace(summary, metrics=(holes, *summary.metrics[1:])))
    cell = rows[1].cells[0]
    assert (cell.difference, cell.median, cell.relative, cell.p, cell.glyph) == ("—", "—", "—", "—", None)


def test_open_intervals_reach_the_edge_of_their_drawing(made):
    summary = made[0]
    metric = summary.metrics[0]
    half_open = replace(metric.differences[0], span=Span(-1.0, None, 2.0))
    open_ended = replace(summary, metrics=(replace(metric, differences=(half_open,)),), pareto=())
    axes = drawn(open_ended, "strip-flicker")[0].figure.axes[0]
    span = next(line for line in axes.lines if line.get_gid() == "span-B")
    assert span.get_xdata()[0] == axes.get_xlim()[0] and span.get_xdata()[1] == 2.0
    assert (
        arm_rows(replace(summary, metrics=(replace(metric, differences=(half_open,)),)))[1].cells[0].interval
        == "[−∞, +2.00]"
    )


def test_strip_shows_every_pair_and_leads_to_its_clips(made):
    summary = made[0]
    key = (HOSTILE[2], 3)
    chart, svg = drawn(few(summary), "strip-flicker", {key: "#pair-5"})
    differences = pair_differences(summary, "flicker")["on"]
    ours, base = (summary.clip(arm, *key).measures["flicker"].value for arm in ("on", summary.baseline))
    assert differences[key] == pytest.approx(ours - base)
    assert [len(marks_of(svg, f"dots-{badge}")) for badge in "BC"] == [8, 8]
    assert [hint.href for hint in chart.hints["dots-B"]].count("#pair-5") == 1
    lefts = [float(mark.get("x")) for mark in marks_of(svg, "dots-B")]
    assert sorted(range(8), key=lambda i: lefts[i]) == sorted(
        range(8), key=lambda i: list(differences.values())[i]
    )
    page = (made[1] / "report.html").read_text()
    assert page.count('<a href="#pair-5" tabindex="-1"><use') == 2 * len(lean(summary).metrics)
    assert html.escape(chart.hints["dots-B"][0].words, quote=False) in page


def test_of_thousands_of_pairs_the_extremes_are_drawn_and_the_note_says_how_many(made):
    summary = made[0]
    many = tuple(
        replace(clip, prompt=f"p{at}", measures={"flicker": ClipMeasure(float(at * is_on), "ok")})
        for at in range(700)
        for is_on, clip in enumerate(summary.clips[:2])
    )
    metrics = (replace(summary.metrics[0], differences=summary.metrics[0].differences[:1]),)
    big = replace(summary, arms=summary.arms[:2], clips=many, metrics=metrics, pareto=())
    chart, svg = drawn(big, "strip-flicker")
    assert 150 <= len(marks_of(svg, "dots-B")) <= 200 and "200 of 700 dots are drawn" in chart.note
    words = {hint.words for hint in chart.hints["dots-B"]}
    assert {"p0, seed 0: 0 levels", "p699, seed 0: +699 levels"} <= words


def test_pareto_marks_baseline_front_and_sharpness(made):
    chart, svg = drawn(few(made[0]), "pareto")
    points = {point.arm: point for point in made[0].pareto}
    badges = arm_badges(made[0].arms)
    at = {arm: marks_of(svg, f"mark-{badges[arm]}")[0] for arm in points}
    ranked = sorted(points, key=lambda arm: points[arm].flicker.estimate)
    assert ranked == sorted(points, key=lambda arm: float(at[arm].get("x")))
    assert len({mark.get("style").split(";")[0] for mark in at.values()}) > 1
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert any(text.startswith("A  off") and text.endswith("(baseline, ringed)") for text in texts)
    assert chart.hints["mark-B"][0].words.startswith("on: flicker") and "sharpness" in chart.words


def test_sharpness_colours_grow_lighter():
    shades = [299 * r + 587 * g + 114 * b for r, g, b, _ in (SHARPNESS(step) for step in range(9))]
    assert shades == sorted(shades) and len(set(shades)) == 9


@pytest.mark.full
def test_two_axes_make_heat_maps_with_every_cell_in_its_place(tmp_path: Path):
    axes = (Axis("scheduler", ("ddim", "euler")), Axis("steps", ("4", "8", "12")))
    arms = {
        f"{a} {b}": 3.0 * i for i, (a, b) in enumerate((a, b) for a in axes[0].values for b in axes[1].values)
    }
    summary = lean(painted_comparison(tmp_path, ("a",), arms, (1,), axes))
    chart, svg = drawn(summary, "heat-flicker")
    cells = {
        badge: next(group for group in svg.iter(f"{SVG}g") if group.get("id") == f"cell-{badge}")[0]
        for badge in "ABCDEF"
    }
    at = {badge: [float(n) for n in cell.get("d").split()[1:3]] for badge, cell in cells.items()}
    assert at["A"][0] == at["D"][0] < at["B"][0] and at["A"][1] == at["C"][1] < at["D"][1]
    fills = {badge: cell.get("style").split(";")[0] for badge, cell in cells.items()}
    assert fills == dict.fromkeys("ABCDEF", "fill: #b93434")  # A flickers least: all others are worse
    strength = {
        badge: float(cell.get("style").partition("opacity: ")[2].split(";")[0])
        for badge, cell in cells.items()
    }
    assert sorted(strength, key=lambda badge: strength[badge]) == list("ABCDEF")
    assert "red: worse; full colour: by" in chart.note
    page = render_report(summary, tmp_path)
    assert "6 settings × 1 prompt × 1 seed." in page and ">1 pair<" in page
    assert "is the ruler" not in page  # one seed tells nothing of what another does
    names = {path.name for path in write_plots(draw_charts(few(summary), {}), tmp_path / "plots")}
    assert {"heat-flicker.svg", "heat-flicker.png"} <= names and "strip-sharpness.svg" not in names


def test_long_labels_of_a_heat_map_are_whole(tmp_path: Path):
    name = "dpmpp_2m_karras_with_a_long_name"
    axes = (Axis("scheduler", ("ddim", name)), Axis("steps", ("4", name)))
    arms = {f"{a} {b}": 3.0 for a in axes[0].values for b in axes[1].values}
    svg = drawn(few(painted_comparison(tmp_path, ("a",), arms, (1,), axes)), "heat-flicker")[1]
    texts = "".join(text.text or "" for text in svg.iter() if text.tag in {f"{SVG}text", f"{SVG}tspan"})
    assert texts.replace("\n", "").count(name) == 2, texts


def test_a_chart_on_the_page_has_no_style_attribute_and_takes_the_colours_of_the_dark(made):
    page = (made[1] / "report.html").read_text()
    chart = page[page.index('<svg class="chart"') :]
    chart = chart[: chart.index("</svg>")]
    assert "style=" not in chart and "DejaVu" not in chart and "#1d2433" not in chart
    assert 'fill="var(--ink)"' in chart and "xlink" not in chart and "ns0" not in chart


def test_plots_keep_their_texts_and_take_labels_as_they_are(made):
    plots = made[1] / "plots"
    for path in plots.glob("*.svg"):
        ElementTree.fromstring(path.read_bytes())
    texts = "".join(ElementTree.fromstring((plots / "pareto.svg").read_bytes()).itertext())
    assert "off </script><b>" in texts and 'calm "$x_{$" guidance=7.5' in texts
    assert {path.suffix for path in plots.iterdir()} == {".svg", ".png"}
    assert (plots / "strip-flicker.png").read_bytes().startswith(b"\x89PNG")


def test_plots_do_not_depend_on_the_users_own_matplotlib_settings(made, tmp_path: Path):
    with rc_context({"font.size": 30, "axes.facecolor": "yellow"}):
        write_plots(draw_charts(few(made[0]), {}), tmp_path)
        assert rcParams["font.size"] == 30
    for name in ("pareto.svg", "strip-flicker.png"):
        assert (tmp_path / name).read_bytes() == (made[1] / "plots" / name).read_bytes()


def test_tones_follow_the_test_and_guards_only_warn():
    def tone(role: str, direction: str, words: str, name: str = "x", estimate: float = -1.0) -> str:
        span = Span(estimate, -2.0, -0.5)
        difference = Difference("b", span, None, None, None, 0.01, 0.01, words, 9, 0, (), None)
        metric = MetricSummary(name, "u", direction, "g", role, 0.5, (), (difference,), None)
        return tone_of(metric, difference)

    assert tone("headline", "lower", "lower") == "good"
    assert tone("headline", "lower", "higher") == "bad"
    assert tone("headline", "lower", "no difference seen") == "even"
    assert tone("other", "higher", "higher") == "good"
    assert tone("other", "neither", "lower") == "even"
    assert tone("guard", "neither", "lower", "motion") == "bad"
    assert tone("guard", "neither", "higher", "motion") == "even"
    assert tone("guard", "neither", "lower", "motion", -0.3) == "even"  # within its margin
    assert tone("guard", "neither", "higher", "cuts", 1.0) == "bad"
    assert tone("guard", "neither", "lower", "cuts") == "even"


def test_more_settings_than_letters(made):
    arms = tuple(replace(made[0].arms[0], label=str(i), is_baseline=i == 0) for i in range(54))
    badges = list(arm_badges(arms).values())
    assert badges[25:28] == ["Z", "AA", "AB"] and badges[52] == "BA" and len(set(badges)) == 54


def test_many_clips_are_paged_and_dots_lead_to_the_page_of_their_clips(made, tmp_path: Path, monkeypatch):
    summary, folder = made
    monkeypatch.setattr("video_diffusion.comparison.report.MOST_CLIPS_OF_ONE_PAGE", 10)
    monkeypatch.setattr("video_diffusion.comparison.report.CLIPS_OF_A_PAGE", 9)  # three pairs of three
    shutil.copytree(folder / "clips", tmp_path / "clips")
    (tmp_path / "report-7.html").write_text("of an earlier, larger comparison")
    (tmp_path / "report-of-mine.html").write_text("not ours")
    write_report(few(summary), tmp_path)
    assert {path.name for path in tmp_path.glob("*.html")} == {
        "report.html", "report-2.html", "report-3.html", "report-of-mine.html",
    }  # fmt: skip
    pages = [
        Page((tmp_path / name).read_text()) for name in ("report.html", "report-2.html", "report-3.html")
    ]
    cards = [[card["id"] for card in page.all("article")] for page in pages]
    assert cards == [["pair-0", "pair-1", "pair-2"], ["pair-3", "pair-4", "pair-5"], ["pair-6", "pair-7"]]
    links = {link["href"] for link in pages[0].all("a") if "pair-" in link.get("href", "")}
    assert links == {f"#{card}" for card in cards[0]} | {
        f"./report-{at + 1}.html#{card}" for at in (1, 2) for card in cards[at]
    }
    assert "Pairs 4 to 6 of 8" in " ".join(pages[1].texts)
    assert {"./report.html#clips", "./report-3.html#clips"} <= {link["href"] for link in pages[1].all("a")}
    assert len(pages[1].all("table")) == 0 and len(pages[1].all("video")) == 9


@pytest.mark.slow
def test_a_comparison_of_five_thousand_clips_has_a_light_top(made, tmp_path: Path):
    summary, folder = made
    shutil.copytree(folder / "clips", tmp_path / "clips")
    prompts = tuple(f"a small red circle, number {at}" for at in range(1250))
    rng = np.random.default_rng(0)
    clips = tuple(
        replace(
            summary.clips[place], prompt=prompt, seed=seed, command="x" * 200,
            measures={m.name: ClipMeasure(float(rng.normal(3 - place)), "ok") for m in ALL_METRICS},
        )
        for prompt in prompts for seed in (0, 1) for place in (0, 1)
    )  # fmt: skip
    arms = summary.arms[:2]
    big = summarise(Findings("", "", arms, (), prompts, (0, 1), clips, {"flicker": 0.1}, 0.05))
    write_folder(big, tmp_path)
    assert len(big.clips) == 5000
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert len(list(tmp_path.glob("report-*.html"))) == 31


def test_a_folder_that_is_not_there_is_the_callers_error(made, tmp_path: Path):
    with pytest.raises(OSError, match=r"missing"):
        write_report(few(made[0]), tmp_path / "missing")
    assert not list(tmp_path.iterdir())
