"""A browser for all tests of report pages of a process, and a page of painted clips for it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from painted_comparison import HOSTILE, painted_comparison

from video_diffusion.comparison.report import render_report
from video_diffusion.comparison.summary import ComparisonSummary
from video_diffusion.web import write_page


@pytest.fixture(scope="session")
def reader() -> Iterator["PageReader"]:  # selenium may be missing: then the tests are skipped
    pytest.importorskip("selenium", reason="selenium is not installed")
    from page_reader import BROWSER, DRIVER, PageReader

    if not (BROWSER and DRIVER):
        pytest.skip("no chromium and chromedriver on the PATH")
    someone = PageReader()
    yield someone
    someone.driver.quit()


@pytest.fixture(scope="session")
def painted_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonSummary, Path]:
    """A summary, and the folder with its report.html and clips."""
    folder = tmp_path_factory.mktemp("browser") / "of #1 100%"
    summary = painted_comparison(folder, HOSTILE[:3])
    summary = replace(summary, metrics=tuple(metric for metric in summary.metrics if metric.role != "other"))
    write_page(folder / "report.html", render_report(summary, folder))
    return summary, folder
