"""The report in a real browser: no prompt runs, no request leaves, it reads well and can be moved."""

import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pytest
from painted_comparison import HOSTILE

pytest.importorskip("selenium", reason="selenium is not installed")
from page_reader import PageReader

CARDS = """return [...document.querySelectorAll('[data-pair]')]
  .filter(card => !card.hidden).map(card => card.id)"""
CHOOSE = """const field = document.querySelector(arguments[0]); field.value = arguments[1];
  field.dispatchEvent(new Event(arguments[2], {bubbles: true}))"""
WEAKEST_CONTRAST = """
const light = colour => { const parts = colour.match(/[\\d.]+/g).map(Number).map(part => part / 255)
    .map(part => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
  return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2] };
const behind = element => { for (; element; element = element.parentElement) {
  const colour = getComputedStyle(element).backgroundColor; if (colour.startsWith('rgb(')) return colour } };
const texts = 'h1, .lead, .quiet, .unit, .verdict, .change, td strong, a, button, .facts dt';
return [...document.querySelectorAll(texts)].map(element => {
  const both = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
  return [(both[0] + .05) / (both[1] + .05), `${element.className} ${element.textContent.slice(0, 20)}`]
}).sort((x, y) => x[0] - y[0])[0]"""


@pytest.mark.full
def test_no_prompt_runs_and_no_request_leaves(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html")
    reader.see_clips()
    reader.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    for target in reader.all("article h3, figcaption, .warnings li")[:12]:
        reader.point_at(target)
    time.sleep(0.3)
    assert reader.run("return window.XSS") is None
    headings = [h.get_attribute("textContent") for h in reader.all("article h3 bdi")]
    assert headings[::2] == [HOSTILE[0], HOSTILE[1], "<U+202E>reversed<U+202C> ␛[2J and 🦊\u200d🔥"]
    folder = painted_page[1].as_uri()
    asked = reader.requests()
    assert asked and all(url.startswith((folder, "data:")) for url in asked), asked
    assert reader.complaints() == []


TRY_TO_LEAVE = """
const done = arguments[1], broken = [];
document.addEventListener('securitypolicyviolation', event => broken.push(event.effectiveDirective));
const add = (tag, values) => document.body.append(Object.assign(document.createElement(tag), values));
add('img', {src: arguments[0] + 'x.png'});
add('iframe', {src: arguments[0]});
add('video', {src: arguments[0] + 'x.mp4', preload: 'auto'});
add('link', {rel: 'stylesheet', href: arguments[0] + 'x.css'});
add('script', {textContent: 'window.XSS = 6'});
fetch(arguments[0]).catch(() => {}).finally(() => setTimeout(() => done(broken), 300));
"""


def what_was_heard(server: socket.socket) -> bytes:
    """All that callers said; Chromium calls for an iframe that it then does not load, and says nothing."""
    heard = b""
    with suppress(TimeoutError):
        while True:
            caller, _ = server.accept()
            with caller, suppress(TimeoutError):
                caller.settimeout(0.2)
                heard += caller.recv(1000)
    return heard


@pytest.mark.full
def test_the_policy_stops_what_would_leave(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        outside = f"http://127.0.0.1:{server.getsockname()[1]}/"
        broken = reader.driver.execute_async_script(TRY_TO_LEAVE, outside)
        assert what_was_heard(server) == b""
    wanted = {"img-src", "script-src-elem", "style-src-elem", "frame-src", "connect-src", "media-src"}
    assert wanted <= set(broken)
    assert reader.run("return window.XSS") is None


def test_order_filter_size_and_settings(reader: PageReader, painted_page):
    summary, folder = painted_page
    reader.open(folder / "report.html", calm=True)
    keys = [clip.key for clip in summary.clips[::3]]
    flicker = {clip.key: clip.measures["flicker"].value for clip in summary.clips if clip.arm == "on"}
    reader.run(CHOOSE, "[data-order]", "worst", "change")
    reader.run(CHOOSE, "[data-order-arm]", "1", "change")
    worst = sorted(range(len(keys)), key=lambda at: -flicker[keys[at]])
    assert reader.run(CARDS) == [f"pair-{at}" for at in worst]
    reader.run(CHOOSE, "[data-order]", "declared", "change")
    reader.run(CHOOSE, "[data-filter]", "REVERSED seed 3", "input")
    assert reader.run(CARDS) == ["pair-5"] and reader.one("[data-shown-count]").text == "1 of 6 pairs"
    reader.run(CHOOSE, "[data-filter]", "no such words", "input")
    assert reader.run(CARDS) == [] and reader.one("[data-none-shown]").is_displayed()
    reader.run(CHOOSE, "[data-filter]", "", "input")
    reader.run("document.querySelector('[data-arm=\"1\"]').click()")
    assert reader.run("return [...document.querySelectorAll('#pair-0 [data-clip]')].map(c => c.hidden)") == [
        False,
        True,
        False,
    ]
    widths = []
    for size in "sml":
        reader.run(f"document.querySelector('[name=size][value={size}]').click()")
        widths.append(
            reader.run("return document.querySelector('#pair-0 [data-clip]').getBoundingClientRect().width")
        )
    assert widths[0] < widths[1] < widths[2]


VALUES = """return [...document.querySelectorAll('[data-pair]')].map(card => [card.id,
  ...[...card.querySelectorAll('[data-clip]')].map(clip => JSON.parse(clip.dataset.values)[arguments[0]])])"""
CLICK = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"


@pytest.mark.full
def test_pairs_are_sorted_by_any_measure(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    measures = reader.run(
        "return [...document.querySelector('[data-order-measure]').options].map(o => o.value)"
    )
    assert {"flicker", "motion", "sharpness"} <= set(measures)
    for measure, mode, sign in (("motion", "worst", 1), ("sharpness", "best", -1), ("flicker", "best", 1)):
        reader.run(CHOOSE, "[data-order-measure]", measure, "change")
        reader.run(CHOOSE, "[data-order]", mode, "change")
        reader.run(CHOOSE, "[data-order-arm]", "2", "change")
        rows = reader.run(VALUES, measure)
        numbers = [sign * row[3] for row in rows]
        assert numbers == sorted(numbers) and rows != sorted(rows), measure


@pytest.mark.full
def test_a_curve_under_the_pointer_tells_its_value_and_shows_that_frame(reader: PageReader, painted_page):
    summary, folder = painted_page
    reader.open(folder / "report.html", calm=True)
    reader.see_clips()
    track = reader.one("#pair-0 [data-clip]:nth-of-type(2) [data-series]")
    reader.run("arguments[0].scrollIntoView({block: 'center'})", track)
    reader.point_at(track)  # its middle lies between two frames
    clip = next(clip for clip in summary.clips if clip.arm == "on")
    reading = reader.one("#pair-0 [data-clip]:nth-of-type(2) [data-reading]")
    reader.until(reading.is_displayed, "the value is told")
    frame = int(reading.text.split()[1].rstrip(":"))
    assert frame in {5, 6}
    assert reading.text == f"frame {frame}: {clip.series['flicker'][frame - 1]:.4g} flicker in levels"
    shown = (frame - 0.5) / clip.fps
    reader.until(lambda: {round(t, 6) for t in reader.times()} == {shown}, "every clip shows that frame")
    reader.point_at(reader.one("#clips-title"))
    reader.until(lambda: not reading.is_displayed(), "the value is gone")


@pytest.mark.full
def test_a_line_between_baseline_and_clip_follows_pointer_and_slider(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    reader.see_clips()
    reader.run("document.querySelector('[name=show][value=split]').click()")
    canvas = reader.until(lambda: reader.all("#pair-0 canvas:not([hidden])"), "the line is drawn")[1]
    assert reader.one("[data-split-label]").is_displayed()

    def restless(share: float) -> tuple[float, float]:
        """How the noisy left quarter differs from the baseline's and from the clip's own at this place."""
        reader.run(
            "const bar = document.querySelector('[data-split]'); bar.value = arguments[0];"
            "bar.dispatchEvent(new Event('input', {bubbles: true}))", 100 * share,
        )  # fmt: skip
        time.sleep(0.25)
        shown = reader.picture(canvas).astype(float)
        reader.run("arguments[0].style.visibility = 'hidden'", canvas)
        own = reader.picture(canvas.find_element("xpath", "..")).astype(float)
        base = reader.picture(reader.one("#pair-0 [data-reference] .screen")).astype(float)
        reader.run("arguments[0].style.visibility = ''", canvas)
        part = slice(4, shown.shape[1] // 2 - 12)
        crop = min(shown.shape[0], own.shape[0], base.shape[0])
        return tuple(float(abs(shown[:crop, part] - other[:crop, part]).mean()) for other in (base, own))

    to_base, to_own = restless(1.0)
    assert to_base < to_own / 2, (to_base, to_own)
    to_base, to_own = restless(0.0)
    assert to_own < to_base / 2, (to_base, to_own)
    reader.point_at(canvas)
    reader.until(
        lambda: abs(float(reader.one("[data-split]").get_attribute("value")) - 50) < 4, "the pointer moves it"
    )
    reader.run("document.querySelector('[name=show][value=clip]').click()")
    reader.until(lambda: not reader.all("canvas:not([hidden])"), "clips are shown again")


@pytest.mark.full
def test_a_dot_leads_to_its_clips_though_the_filter_hides_them(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    top = "return document.querySelector('#pair-4').getBoundingClientRect().top"
    for _ in range(2):  # the second time the address does not change
        reader.run(CHOOSE, "[data-filter]", "no such words", "input")
        assert reader.run(CARDS) == []
        reader.run(CLICK, reader.all("a[href='#pair-4'] .dot")[0])
        reader.until(lambda: "pair-4" in reader.run(CARDS), "the filter gives way")
        reader.until(lambda: 0 <= reader.run(top) < 700, "its card is in sight")


@pytest.mark.full
def test_shortlisted_clips_are_counted_shown_alone_and_their_commands_exported(
    reader: PageReader, painted_page
):
    summary, folder = painted_page
    reader.open(folder / "report.html", calm=True)
    assert not reader.one("[data-shortlist]").is_displayed()
    for card, place in ((0, 1), (3, 2)):
        reader.run(f"document.querySelectorAll('#pair-{card} [data-pick]')[{place}].click()")
    assert reader.one("[data-picked-count]").text == "2 clips on the shortlist"
    reader.run("document.querySelector('[data-only-picked]').click()")
    assert reader.run(CARDS) == ["pair-0", "pair-3"]
    commands = [summary.clips[1].command, summary.clips[3 * 3 + 2].command]
    assert reader.one("[data-copy-picked]").get_attribute("data-copy").split("\n") == commands
    saved = unquote(reader.one("[data-save-picked]").get_attribute("href").partition(",")[2])
    assert saved == "\n".join(commands) + "\n"
    reader.run("document.querySelector('[data-clear-picked]').click()")
    assert not reader.one("[data-shortlist]").is_displayed() and len(reader.run(CARDS)) == 6


@pytest.mark.full
def test_the_files_beside_the_page_are_a_click_away(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    links = {link.text: link.get_attribute("href") for link in reader.all("nav[aria-label^='Files'] a")}
    assert {"metrics.csv", "summary.json", "summary.md"} <= set(links)
    assert all(href == (painted_page[1] / name).as_uri() for name, href in links.items())


def test_a_dot_of_a_plot_leads_to_its_clips(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    dot = reader.all("a[href='#pair-4'] .dot")[0]
    reader.point_at(dot)
    reader.driver.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", dot)
    top = "return document.querySelector('#pair-4').getBoundingClientRect().top"
    reader.until(lambda: 0 <= reader.run(top) < 700, "its card is in sight")
    assert reader.run("return location.hash") == "#pair-4"


def test_the_command_is_copied_as_it_is(reader: PageReader, painted_page):
    reader.open(painted_page[1] / "report.html", calm=True)
    button = reader.one("#pair-0 [data-copy]")
    reader.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    reader.until(
        lambda: reader.one("[data-announcer]").get_attribute("textContent") == "Command copied", "it is said"
    )
    field = reader.one("[data-filter]")
    field.click()
    field.send_keys("\ue009" + "v")
    assert (
        field.get_attribute("value")
        == painted_page[0].clips[0].command
        == "video-diffusion rerun 'clips/a#b 100%? 0-0-0.mp4'"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_readable_at_phone_width_and_wide_in_light_and_dark(reader: PageReader, painted_page, dark: bool):
    for width in (390, 1400):
        reader.open(painted_page[1] / "report.html", width=width, dark=dark, calm=True)
        assert reader.run("return document.documentElement.scrollWidth") <= width
        weakest = reader.run(WEAKEST_CONTRAST)
        assert weakest[0] >= 4.5, weakest
    paper = reader.run("return getComputedStyle(document.body).backgroundColor")
    assert (int(paper.split("(")[1].split(",")[0]) < 80) == dark


def test_the_folder_can_move_and_a_lost_clip_says_so(reader: PageReader, painted_page, tmp_path: Path):
    folder = tmp_path / "moved ü?"
    shutil.copytree(painted_page[1], folder)
    (folder / painted_page[0].clips[0].path).unlink()
    reader.open(folder / "report.html", calm=True)
    reader.run("document.querySelector('.pairs').scrollIntoView()")
    notes = reader.until(lambda: reader.all("[data-unplayable]:not([hidden])"), "the lost clip is noticed")
    assert len(notes) == 1 and painted_page[0].clips[0].path in notes[0].text
    reader.until(lambda: len(reader.times()) >= 5, "the others are loaded")
