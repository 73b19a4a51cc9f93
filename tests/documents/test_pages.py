"""What documents say beside commands: their Python runs, and their settings, links and headings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lumiply.api import close_engine
from lumiply.server import FlaskServerThread, create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.documents.pages import PAGES, ROOT, named
from tests.fakes import FakeEngine
from tests.photos import make_scenes

PYTHON = [
    pytest.param(block, id=f"{named(page)}-{index}")
    for page in PAGES
    for index, block in enumerate(re.findall(r"^```python\n(.*?)```", page.read_text(), re.S | re.M))
]


@pytest.mark.parametrize("source", PYTHON)
def test_every_python_example_works(source: str, reader: Path) -> None:
    for part in ("train", "validation"):
        make_scenes(Path("data/crossattn") / part, 1, "off", "on")
    app = create_app(Settings(results_dir=reader / "served"), FakeEngine())
    server = FlaskServerThread(app, "127.0.0.1", 0).start()
    try:
        exec(source.replace("http://127.0.0.1:5000", server.url), {})
    finally:
        site_of(app).close()
        server.shutdown()
        close_engine()
    assert [*reader.rglob("output_red.jpg")] or "red" not in source


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {row[0] for row in Settings.describe()}
    named = set(re.findall(r"\bLUMIPLY_[A-Z][A-Z_]*[A-Z]\b", page.read_text()))
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_and_its_heading_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target, heading in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", text):
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert heading[1:] in slugs, heading


@pytest.mark.parametrize(
    "pattern", [r"(?m)^curl .*$", r"(?s)```json\n(.*?)```", r"(?m)^make \w+", r"(?s)```python\n(.*?)```"]
)
def test_both_readmes_show_the_same_requests(pattern: str) -> None:
    english, korean = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))
    assert re.findall(pattern, english) == re.findall(pattern, korean) != []
