"""The page's addresses: what they answer, and what a browser is told about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

import lumiply.server
from lumiply.colors import COLORS
from lumiply.server.page import POLICY
from lumiply.server.service import Service
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

STATIC = Path(lumiply.server.__file__).parent / "static"


@pytest.fixture(autouse=True)
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one sample room and one file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "sample_room.png").write_bytes(photo_bytes(size=(900, 600)))
    (tmp_path / "images" / "private.png").write_bytes(photo_bytes())


def test_the_page_runs_nothing_from_elsewhere(client: FlaskClient) -> None:
    answer = client.get("/")
    assert answer.headers["Content-Security-Policy"] == POLICY
    html = answer.text
    assert "page/samples/sample_room.png" in html and "private" not in html
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    assert not re.search(r"<script(?![^>]*src=)", html) and not re.search(r"\son\w+=|\sstyle=", html)


def test_everything_that_the_page_names_is_there(client: FlaskClient) -> None:
    named = set(re.findall(r"(?:src|href)=\"(page/[^\"]+)\"", client.get("/").text))
    for script in STATIC.glob("*.js"):
        named |= {f"page/{name}" for name in re.findall(r"from \"\./([^\"]+)\"", script.read_text())}
        named |= set(re.findall(r"\"(page/\w+\.\w+)\"", script.read_text()))
    assert len(named) >= 14
    for address in named:
        answer = client.get(f"/{address}")
        assert answer.status_code == 200, address
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        answer.close()


def test_scripts_come_as_scripts(client: FlaskClient) -> None:
    with client.get("/page/app.js") as answer:
        assert answer.mimetype in ("text/javascript", "application/javascript")


def test_the_words_are_the_same_in_both_languages() -> None:
    text = (STATIC / "words.js").read_text()
    tables = {name: text.split(f"const {name} = {{")[1].split("\n};")[0] for name in ("EN", "KO")}
    english, korean = (re.findall(r"(?:^|, )\s*(\w+): \"", tables[name], re.M) for name in ("EN", "KO"))
    assert english == korean and set(COLORS) <= set(english) and len(english) > 60


def test_a_sample_comes_whole_or_small(client: FlaskClient) -> None:
    with client.get("/page/samples/sample_room.png") as answer:
        assert Image.open(BytesIO(answer.data)).size == (900, 600)
    with client.get("/page/samples/sample_room.png?thumb=1") as answer:
        assert Image.open(BytesIO(answer.data)).size == (320, 213)
        assert answer.mimetype == "image/jpeg"


@pytest.mark.parametrize("name", ["private.png", "sample_none.png", "..%2fprivate.png"])
def test_only_samples_are_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/page/samples/{name}").status_code == 404


def test_switched_off_there_is_no_page(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    client = make_app(engine, settings.replace(page="off")).test_client()
    for address in ("/", "/page/app.js", "/page/samples/sample_room.png"):
        answer = client.get(address)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    assert client.get("/health").status_code == 200


TOKEN = "sixteen-or-more-letters"


@pytest.fixture
def behind_token(make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings) -> FlaskClient:
    return make_app(engine, settings.replace(page="token", token=TOKEN)).test_client()


@pytest.mark.parametrize("address", ["/", "/page/app.js", "/page/samples/sample_room.png"])
def test_behind_the_token_nothing_of_the_page_is_shown(behind_token: FlaskClient, address: str) -> None:
    answer = behind_token.get(address)
    assert (answer.status_code, answer.get_json()["code"]) == (401, "unauthorized")
    assert behind_token.get(f"{address}?token=wrong").status_code == 401
    with behind_token.get(address, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status_code == 200
    assert behind_token.get("/health").status_code == 200


def test_a_browser_is_asked_for_the_token_in_its_language(behind_token: FlaskClient) -> None:
    for language, words in (
        ("ko-KR,ko;q=0.9", "토큰이 필요한"),
        ("en", "asks for a token"),
        ("fr", "asks for"),
    ):
        answer = behind_token.get("/", headers={"Accept": "text/html", "Accept-Language": language})
        assert answer.status_code == 401 and words in answer.text and "<script" not in answer.text
        assert "form-action 'self'" in answer.headers["Content-Security-Policy"]
    for address in re.findall(r"(?:src|href)=\"(page/[^\"]+)\"", answer.text):
        with behind_token.get(f"/{address}") as part:
            assert part.status_code == 200, address


def test_who_brought_the_token_gets_the_parts_too_and_no_more(behind_token: FlaskClient) -> None:
    answer = behind_token.get(f"/?token={TOKEN}")
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and TOKEN not in cookie
    for address in ("/", "/page/app.js", "/page/samples/sample_room.png"):
        with behind_token.get(address) as part:  # the browser sends the cookie
            assert part.status_code == 200
    assert behind_token.get("/metrics").status_code == 401  # which opens the page alone


def test_without_a_token_of_its_own_one_is_made(settings: Settings, engine: FakeEngine) -> None:
    with Service(settings.replace(page="token"), engine) as service:
        assert service.token and len(service.token) >= 32
        assert service.page_url == f"{service.url}/?token={service.token}"
    with Service(settings, engine) as service:
        assert service.token is None and service.page_url == f"{service.url}/"
