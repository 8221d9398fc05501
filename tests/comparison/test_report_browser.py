"""The report's clips in a real browser: in step down to the pixels, by mouse and keyboard, many at once."""

import time
from dataclasses import replace

import numpy as np
import pytest
from painted_comparison import FPS, NUM_FRAMES, grey_of

from video_diffusion.comparison.report import render_report
from video_diffusion.web import write_page

pytest.importorskip("selenium", reason="selenium is not installed")
from page_reader import CLIP_TIMES, ENTER, LEFT, RIGHT, SPACE, TAB, PageReader

pytestmark = pytest.mark.full

FRAME = 1 / FPS
FOCUSED = """const focused = document.activeElement;
  const again = focused.tabbed === true; if (focused !== document.body) focused.tabbed = true;
  return [focused.getAttribute('aria-label') || focused.name || focused.textContent.trim(),
    focused === document.body || focused.matches(':focus-visible'), again]"""
DRAG = """const bar = document.querySelector('[data-scrub]'); bar.value = arguments[0];
  bar.dispatchEvent(new Event('input', {bubbles: true}))"""
OPENING_TIMES = """const times = performance.getEntriesByType('navigation')[0];
  return [times.domContentLoadedEventEnd, times.loadEventEnd]"""


def shown_frames(reader: PageReader, count: int = 3) -> list[int]:
    """Which frame is on the screen in each of the first clips, read from its grey."""
    levels = []
    for video in reader.all("video[src]")[:count]:
        pixels = reader.picture(video)
        levels.append(float(pixels[-24:-8, int(pixels.shape[1] * 0.9) :].mean()))
    return [
        int(np.abs(np.array([grey_of(f) for f in range(NUM_FRAMES)]) - level).argmin()) for level in levels
    ]


def test_clips_play_in_step_and_loop(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html")
    reader.see_clips()
    reader.until(lambda: min(reader.times(), default=0) > 0.2, "they play")
    laps, before = 0, 0.0
    spreads = []
    for _ in range(40):
        times = reader.times()
        assert len(times) >= 6
        spreads.append(max(times) - min(times))
        laps += min(times) < before - FRAME
        before = min(times)
        time.sleep(0.06)
    assert sorted(spreads)[-3] < FRAME, spreads  # a busy machine may hold one decoder up; it catches up
    assert float(np.median(spreads)) < FRAME / 4, spreads
    assert laps >= 1


def test_paused_clips_show_the_same_frame_step_by_step(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)  # who wishes no motion gets none unasked
    reader.see_clips()
    assert all(paused for _, paused in reader.run(CLIP_TIMES))
    for key, expected in ((RIGHT, 1), (RIGHT, 2), (RIGHT, 3), (LEFT, 2)):
        reader.press(key)
        reader.until(
            lambda: (
                not reader.run("return [...document.querySelectorAll('video[src]')].some(v => v.seeking)")
            ),
            "they are there",
        )
        assert {round(t, 6) for t in reader.times()} == {(expected + 0.5) * FRAME}
        time.sleep(0.1)
        assert shown_frames(reader) == [expected] * 3
        assert reader.one("[data-frame-count]").text == f"{expected + 1} / {NUM_FRAMES}"
    assert reader.one("[data-cursor]").get_attribute("style") == f"left: {100 * 2.5 / NUM_FRAMES:g}%;"
    reader.press(LEFT, LEFT, LEFT)  # before the first comes the last
    reader.until(lambda: set(reader.times()) == {(NUM_FRAMES - 0.5) * FRAME}, "they are at the last frame")


def test_dragging_the_bar_shows_its_frame_everywhere(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    reader.see_clips()
    reader.run(DRAG, 6)
    reader.until(lambda: set(reader.times()) == {6.5 * FRAME}, "they are there")
    reader.until(lambda: shown_frames(reader) == [6] * 3, "they show it")
    assert reader.one("[data-frame-count]").text == f"7 / {NUM_FRAMES}"
    assert reader.one("[data-scrub]").get_attribute("aria-valuetext").startswith("frame 7 of")


def test_space_plays_only_while_the_clips_are_in_sight(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    reader.press(SPACE)
    reader.until(lambda: reader.run("return scrollY") > 200, "the page has scrolled")
    reader.see_clips()
    assert not reader.one("[data-player-bar]").get_attribute("data-playing")
    reader.press(SPACE)
    reader.until(lambda: min(reader.times(), default=0) > 0.1, "they play")
    assert reader.one("[data-play]").get_attribute("aria-label") == "Pause"
    reader.press(SPACE)
    assert all(paused for _, paused in reader.run(CLIP_TIMES))


def test_every_control_can_be_reached_and_used_by_keyboard(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    reader.see_clips()
    reached = []
    for _ in range(200):
        reader.press(TAB)
        name, seen, again = reader.run(FOCUSED)
        if again:
            break
        reached.append(name)
        assert seen, name
    for wanted in ("Skip to the results", "flicker", "One frame back", "Play", "Frame", "1× speed", "Clips"):
        assert any(wanted.lower() in name.lower() for name in reached), (wanted, reached)
    reader.run("document.querySelector('[data-play]').focus()")
    reader.press(ENTER)
    reader.until(
        lambda: reader.one("[data-player-bar]").get_attribute("data-playing") is not None, "it plays"
    )
    reader.run("document.querySelector('[data-scrub]').focus()")
    reader.press(RIGHT)
    reader.until(lambda: all(paused for _, paused in reader.run(CLIP_TIMES)), "scrubbing pauses")


def test_quarter_speed(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    reader.see_clips()
    reader.run("document.querySelector('[name=speed][value=\"0.25\"]').click()")
    reader.run("document.querySelector('[data-play]').click()")
    reader.until(lambda: min(reader.times(), default=0) > 0.03, "they play")
    start, began = reader.times(), time.monotonic()
    time.sleep(1.2)
    end, lasted = reader.times(), time.monotonic() - began
    rates = [(after - before) / lasted for before, after in zip(start, end, strict=True)]
    assert all(0.12 < rate < 0.38 for rate in rates), rates
    assert max(end) - min(end) < FRAME


def test_difference_view_is_black_where_clips_agree(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    reader.see_clips()
    reader.run("document.querySelector('[name=show][value=\"4\"]').click()")
    canvases = reader.until(lambda: reader.all("canvas:not([hidden])"), "differences are drawn")
    assert len(canvases) >= 4 and len(canvases) % 2 == 0  # of three settings one is the baseline
    time.sleep(0.2)
    pixels = reader.picture(canvases[0]).astype(float)
    half = pixels.shape[1] // 2
    assert pixels[8:-8, : half - 8].mean() > 30  # restless here, calm there
    assert pixels[8:-8, half + 60 : -8].mean() < 8  # the same grey in both
    reader.run("document.querySelector('[name=show][value=\"clip\"]').click()")
    reader.until(lambda: not reader.all("canvas:not([hidden])"), "clips are shown again")


def test_only_clips_near_the_window_are_loaded(reader: PageReader, painted_page):
    summary, folder = painted_page
    many = [replace(clip, prompt=f"prompt {number}") for number in range(24) for clip in summary.clips[:3]]
    page = folder / "many.html"
    prompts = tuple(f"prompt {number}" for number in range(24))
    write_page(page, render_report(replace(summary, prompts=prompts, clips=tuple(many)), folder))
    reader.open(page, calm=True)
    assert len(reader.all("video")) == 72 and not reader.times()
    reader.see_clips()
    first = len(reader.all("video[src]"))
    assert 6 <= first <= 54
    reader.run("document.querySelector('#pair-23').scrollIntoView()")
    reader.until(
        lambda: reader.run("return !!document.querySelector('#pair-23 video[src]')"), "the last is loaded"
    )
    reader.until(
        lambda: reader.run("return !document.querySelector('#pair-0 video[src]')"), "the first is let go"
    )
    assert len(reader.all("video[src]")) <= 54


@pytest.mark.slow
def test_five_hundred_clips_open_at_once(reader: PageReader, painted_page, capsys):
    summary, folder = painted_page
    many = [
        replace(clip, prompt=f"prompt {n}", command="x" * 300)
        for n in range(84)
        for clip in summary.clips[:6]
    ]
    page = folder / "hundreds.html"
    prompts = tuple(f"prompt {number}" for number in range(84))
    write_page(page, render_report(replace(summary, prompts=prompts, clips=tuple(many)), folder))
    reader.open(page)
    usable, loaded = reader.run(OPENING_TIMES)
    with capsys.disabled():
        megabytes = page.stat().st_size / 1e6
        print(f"\n504 clips, {megabytes:.1f} MB: usable after {usable:.0f} ms, loaded after {loaded:.0f} ms")
    assert len(reader.all("video")) == 504 and len(reader.all("video[src]")) <= 60
