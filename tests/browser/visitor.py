"""What a visitor does on the page, in the visitor's words."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from lumiply.colors import COLORS
from tests.fakes import PATIENCE_S, photo_bytes

_DROP = """
const [given, paste] = arguments;
const files = new DataTransfer();
for (const [name, type, data] of given)
  files.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))], name, {type}));
const target = document.getElementById("stage");
const how = {bubbles: true, cancelable: true};
if (paste) target.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files, ...how}));
else for (const kind of ["dragenter", "dragover", "drop"])
  target.dispatchEvent(new DragEvent(kind, {dataTransfer: files, ...how}));
"""

_PIXEL = """
const image = document.querySelector(arguments[0]);
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0);
return [...context.getImageData(canvas.width >> 1, canvas.height >> 1, 1, 1).data].slice(0, 3);
"""


class Visitor:
    """Drives one page."""

    def __init__(self, chrome: WebDriver) -> None:
        self.chrome = chrome

    def open(self, url: str, *, started: bool = True) -> Visitor:
        self.chrome.get(url)
        return self.wait_started() if started else self

    def phone(self, width: int) -> Visitor:
        """Make the window a phone's, with fingers in place of a mouse."""
        size = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        return self

    def swipe(self, grip: str, x: float, y: float) -> Visitor:
        """Drag something with a finger to a place on the photo, as shares of its size."""
        frame, start = self.find("#lamps").rect, self.find(grip).rect
        top = self.chrome.execute_script("return scrollY")
        a = (start["x"] + start["width"] / 2, start["y"] - top + start["height"] / 2)
        b = (frame["x"] + x * frame["width"], frame["y"] - top + y * frame["height"])
        path = [(a[0] + (b[0] - a[0]) * i / 8, a[1] + (b[1] - a[1]) * i / 8) for i in range(9)]
        for index, (left, down) in enumerate(path):
            points = [{"x": left, "y": down}]
            kind = "touchMove" if index else "touchStart"
            self.chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self.chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        return self

    def reload(self) -> Visitor:
        self.chrome.refresh()
        return self.wait_started()

    def wait_started(self) -> Visitor:
        return self.wait(lambda: self.find("body").get_attribute("data-started"), "the page has not started")

    def wait(self, condition: Any, message: str) -> Visitor:
        leaving = (
            NoSuchElementException,
            StaleElementReferenceException,
        )  # while a page makes way for the next
        waiting = WebDriverWait(self.chrome, PATIENCE_S, poll_frequency=0.05, ignored_exceptions=leaving)
        waiting.until(lambda _: condition(), message)
        return self

    def find(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> Visitor:
        element = self.find(selector)
        self.chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        return self

    def drop(self, data: bytes | None = None, name: str = "room.png", type: str = "image/png") -> Visitor:
        data = photo_bytes(size=(320, 240)) if data is None else data
        return self.bring((name, type, data))

    def bring(self, *files: tuple[str, str, bytes], paste: bool = False) -> Visitor:
        """Drop files of names and types, or paste them."""
        given = [(name, type, base64.b64encode(data).decode()) for name, type, data in files]
        self.chrome.execute_script(_DROP, given, paste)
        return self

    def settle(self) -> Visitor:
        """Let the page do all that it can do without waiting for anything."""
        self.chrome.execute_async_script("setTimeout(arguments[0])")
        return self

    @property
    def view(self) -> str:
        return self.find("body").get_attribute("data-view") or ""

    def wait_view(self, name: str) -> Visitor:
        return self.wait(lambda: self.view == name, f"the page did not come to {name}")

    def relight(self) -> Visitor:
        """Drop a photo and have it relit to the end."""
        self.drop().wait_view("edit")
        return self.click("#relight").wait_view("done")

    def ready(self) -> list[str]:
        """The colours that can be chosen."""
        swatches = self.all(".swatch[data-state=ready]")
        return [swatch.get_attribute("data-color") or "" for swatch in swatches]

    @property
    def focused(self) -> str:
        """The id of what the keyboard stands on."""
        return self.chrome.switch_to.active_element.get_attribute("id") or ""

    @contextlib.contextmanager
    def always(self, script: str) -> Iterator[None]:
        """Run a script before those of every page that is opened meanwhile."""
        added = self.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        try:
            yield
        finally:
            self.chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    @property
    def chosen(self) -> str:
        return self.find(".swatch[aria-checked=true]").get_attribute("data-color") or ""

    def shown_color(self) -> str:
        """Which colour the picture on the page is of, by its pixels: see `tests.fakes.paint`."""
        return COLORS[round(self.pixel(".compare .after")[1] / 30)]

    def pixel(self, selector: str) -> list[int]:
        """The middle of a picture on the page, as (red, green, blue)."""
        image = self.find(selector)
        script = "return arguments[0].complete && arguments[0].naturalWidth"
        self.wait(lambda: self.chrome.execute_script(script, image), "no picture")
        found: list[int] = self.chrome.execute_script(_PIXEL, selector)
        return found

    def press(self, element: WebElement, *keys: str) -> Visitor:
        element.send_keys(*keys)
        return self

    def drag(self, grip: WebElement, to: WebElement, x: float, y: float) -> Visitor:
        """Drag with the pointer to a place on another element, as shares of its size."""
        dx, dy = int((x - 0.5) * to.size["width"]), int((y - 0.5) * to.size["height"])
        actions = ActionChains(self.chrome, duration=50).move_to_element(grip).click_and_hold()
        actions.move_to_element_with_offset(to, dx, dy).release().perform()
        return self

    def notice(self) -> str:
        """What the page complains about, once it does."""
        self.wait(lambda: self.find("#notice").is_displayed(), "the page does not complain")
        return self.find("#notice-text").text

    def downloads_to(self, folder: Path) -> None:
        self.chrome.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
        )
