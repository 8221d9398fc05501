"""The page of a diagnosis in a real browser: narrow and wide, light and dark; boxes lie on their frames."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_models import save_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.video import write_video

pytest.importorskip("selenium", reason="selenium is not installed")
from page_reader import PageReader

pytestmark = pytest.mark.full

DANGLING = """return [...document.querySelectorAll('a[href^="#"]')]
  .filter(link => !document.getElementById(link.getAttribute('href').slice(1))).map(link => link.outerHTML)"""
OUTSIDE = """return [...document.querySelectorAll('.marked-frames .screen')].filter(screen => {
  const image = screen.querySelector('img').getBoundingClientRect();
  return [...screen.querySelectorAll('rect')].some(rect => { const box = rect.getBoundingClientRect();
    return box.width < 4 || box.height < 4 || box.left < image.left - 3 || box.right > image.right + 3 ||
      box.top < image.top - 3 || box.bottom > image.bottom + 3; }); }).length"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A diagnosis of a prompt, as far as no time at all lets it come, and one from pixels alone."""
    folder = tmp_path_factory.mktemp("why") / "of #1 100%"
    folder.mkdir()
    sizes: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 24, "num_inference_steps": 1}
    model = save_tiny_model(folder / "model", **sizes, scheduler="ddim", guidance_scale=2.0)
    frames = np.random.default_rng(0).integers(90, 110, (9, 48, 64, 3), np.uint8)
    frames[5, 30:44, 40:60] += 90
    write_video(folder / "other.mp4", frames, Fraction(8))
    asked = ["<b>b</b>", "--model", str(model), "--seeds", "0", "--budget", "0.001s"]
    for words in (
        [*asked, "-o", str(folder / "made")],
        [str(folder / "other.mp4"), "-o", str(folder / "seen")],
    ):
        done = CliRunner().invoke(main, ["diagnose", *words])
        assert done.exit_code == 0, done.stderr
    return {name: folder / name / "diagnosis.html" for name in ("made", "seen")}


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (390, False), (390, True)])
@pytest.mark.parametrize("name", ["made", "seen"])
def test_the_page_fits_and_its_boxes_lie_on_their_frames(
    reader: PageReader, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    reader.open(pages[name], width=width, dark=dark, calm=True)
    assert reader.run("return document.documentElement.scrollWidth") <= width
    assert reader.run(DANGLING) == []
    assert not reader.all("b")
    assert len(reader.all(".marked-frames img")) >= 3
    assert reader.run(OUTSIDE) == 0
    assert reader.complaints() == []
    assert all(url.startswith(("file:", "data:")) for url in reader.requests())


def test_the_marked_place_is_warm_on_the_screen(reader: PageReader, pages: dict[str, Path]) -> None:
    reader.open(pages["seen"], calm=True)
    image = reader.one("article[aria-label=Flicker] .screen")
    assert "Frame 6: flicker at the bottom right" in image.find_element("css selector", "img").get_attribute(
        "alt"
    )
    reader.run("arguments[0].scrollIntoView({block: 'center'})", image)
    pixels = reader.picture(image).astype(int)
    height, width = pixels.shape[:2]
    warm = pixels[..., 0] - pixels[..., 2] > 60
    assert warm[int(0.7 * height) : int(0.85 * height), int(0.7 * width) : int(0.85 * width)].mean() > 0.8
    assert warm[: height // 2].mean() < 0.1
