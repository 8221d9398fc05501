"""Someone who opens report pages: Chromium without a window, driven by selenium."""

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium import webdriver

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
SPACE, LEFT, RIGHT, TAB, ENTER = " ", "\ue012", "\ue014", "\ue004", "\ue007"
CLIP_TIMES = """return [...document.querySelectorAll('video[src]')].filter(v => v.readyState >= 1)
  .map(v => [v.currentTime, v.paused])"""
LOADED = """const all = [...document.querySelectorAll('video[src]')];
  return all.length > 3 && all.every(video => video.readyState >= 2)"""


class PageReader:
    """Someone who opens pages: a browser without a window, and what it was asked for on the network."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, page: Path, width: int = 1400, dark: bool = False, calm: bool = False) -> None:
        """Opens a page from disk in a window of this width, and scrolls to the clips."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        wishes = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "",
        }
        self.tell("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in wishes.items()])
        self.requests()
        self.complaints()
        self.driver.get(page.as_uri())

    def see_clips(self) -> None:
        """Scrolls to the clips and waits until those near the window are there."""
        self.run("document.querySelector('.pairs').scrollIntoView()")
        self.until(lambda: self.run(LOADED), "clips are loaded")

    def tell(self, command: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, values)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def point_at(self, element: Any) -> None:
        """Moves the pointer over an element."""
        webdriver.ActionChains(self.driver).move_to_element(element).perform()

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 20) -> Any:
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
            time.sleep(0.05)
        return found

    def times(self) -> list[float]:
        return [time for time, _ in self.run(CLIP_TIMES)]

    def picture(self, element: Any) -> np.ndarray:
        """The pixels of an element as they are on the screen."""
        return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))

    def requests(self) -> list[str]:
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]
