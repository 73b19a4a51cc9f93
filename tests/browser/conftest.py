"""A headless Chromium, and a server with an engine that renders when the test says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lumiply.server import EngineSlot, FlaskServerThread, create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

if TYPE_CHECKING:
    from tests.browser.visitor import Visitor

#: Where programs of distributions put them; Chrome's own names too.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

#: Set where Chromium must be there, such as on the CI machine: its absence then fails the tests.
REQUIRED = os.environ.get("BROWSER_TESTS") == "required"


def _programs() -> tuple[str, str]:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        reason = "no Chromium with its driver here; on Debian: apt-get install chromium chromium-driver"
        if REQUIRED:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return browser, driver


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests. Each test's server has a port, so an origin and a storage, of its own."""
    browser, driver = _programs()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": "en-US"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_script_timeout(10)
    chrome.set_page_load_timeout(20)
    yield chrome
    chrome.quit()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FlaskServerThread]]:
    """Serves an engine, with a layer around the application if given, until the test ends."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "sample_room.png").write_bytes(photo_bytes(size=(320, 240)))
    monkeypatch.chdir(tmp_path)
    ends: list[Callable[[], None]] = []

    def start(
        engine: FakeEngine | EngineSlot, wrap: Callable[[Any], Any] | None = None, **changed: Any
    ) -> FlaskServerThread:
        app = create_app(Settings(results_dir=tmp_path / "inference", **changed), engine)
        if wrap is not None:
            app.wsgi_app = wrap(app.wsgi_app)  # type: ignore[method-assign]
        server = FlaskServerThread(app, "127.0.0.1", 0).start()
        ends.extend([site_of(app).close, server.shutdown])
        return server

    yield start
    for end in reversed(ends):
        end()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visitor]]:
    """Opens a server's page; at the end, nothing may have broken the page's own rules."""
    from tests.browser.visitor import Visitor

    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    chromium.get_log("browser")
    yield lambda server, path="", **how: Visitor(chromium).open(f"{server.url}/{path}", **how)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    broken = [
        entry["message"]
        for entry in chromium.get_log("browser")
        if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]
    ]
    chromium.get("about:blank")
    assert broken == []
