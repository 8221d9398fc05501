"""The page of a search in a real browser: narrow and wide, light and dark; marks lead to clips that play."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_models import save_tiny_model

from video_diffusion.cli.main import main

pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("optuna", reason="optuna is not installed")
from page_reader import PageReader

pytestmark = pytest.mark.full

SEARCH = """
objectives: [raw_flicker, sharpness]
search: {noise_alpha: {range: [0.5, 4.0]}, noise_type: [independent, mixed]}
prompts: [a, "<b>b</b> javascript:alert(1)"]
confirm: {prompts: [e, f, g, h, i, j]}
margins: {motion: 99, sharpness: 99, morph: 99, flicker: 99, cuts: 99}
trials: 6
"""
DANGLING = """return [...document.querySelectorAll('a[href^="#"]')]
  .filter(link => !document.getElementById(link.getAttribute('href').slice(1))).map(link => link.outerHTML)"""
TARGETS = """return [...document.querySelectorAll('svg.chart a')].map(link => link.getAttribute('href'))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "of #1 100%"
    folder.mkdir()
    sizes: dict[str, Any] = {"num_frames": 4, "height": 16, "width": 24, "fps": "12"}
    model = save_tiny_model(
        folder / "model", **sizes, scheduler="ddim", num_inference_steps=1, guidance_scale=2.0
    )
    (folder / "mine.yaml").write_text(f'settings: {{model: "{model}"}}\n{SEARCH}')
    done = CliRunner().invoke(main, ["tune", str(folder / "mine.yaml"), "-o", str(folder / "out")])
    assert done.exit_code == 0, done.stderr
    return folder / "out" / "tuning.html"


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (390, False), (390, True)])
def test_the_page_fits_and_asks_nobody_for_anything(
    reader: PageReader, page: Path, width: int, dark: bool
) -> None:
    reader.open(page, width=width, dark=dark, calm=True)
    assert reader.run("return document.documentElement.scrollWidth") <= width
    assert reader.run(DANGLING) == []
    assert not reader.all("b")
    assert reader.complaints() == []
    assert all(url.startswith(("file:", "data:")) for url in reader.requests())


def test_a_mark_of_the_front_leads_to_its_clips_and_they_play_in_step(reader: PageReader, page: Path) -> None:
    reader.open(page, calm=True)
    target = next(each for each in reader.run(TARGETS) if each.startswith("#trial-"))
    link = reader.one(f"svg.chart a[href='{target}']")
    reader.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))", link)
    reader.until(lambda: reader.run("return location.hash") == target, "the mark leads there")
    reader.until(lambda: len(reader.times()) >= 2, "its clips are loaded")
    assert reader.one(f"{target} h3").text.lower().startswith(target[1:].replace("-", " "))
    reader.press(" ")
    reader.until(lambda: min(reader.times(), default=0) > 0.05, "they play")
    assert not reader.all("[data-pick]")  # a shortlist that this page does not have
