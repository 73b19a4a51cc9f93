"""`/docs`: the interface as a page to read; what it shows is what the server answers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from io import BytesIO

from flask import Flask
from flask.testing import FlaskClient

from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes


def test_the_page_is_readable_and_needs_nothing_from_elsewhere(app: Flask) -> None:
    page = app.test_client().get("/docs").text
    for words in ("/jobs/{job_id}", "callback_url", "busy, loading or closing", "white, red"):
        assert words in page
    assert "http://localhost/process" in page
    assert "<script" not in page and "https://" not in page


def test_what_the_page_shows_is_what_the_server_answers(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    app = make_app(FakeEngine(), settings.replace(token="sixteen-or-more-letters"))
    client = app.test_client()
    page = html.unescape(client.get("/docs").text)
    curl, shown, python, error, *_ = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.S)
    fields = dict(part.split("=", 1) for part in re.findall(r"-F (\S+)", curl)) | {
        "image": (BytesIO(photo_bytes()), "a")
    }
    assert "$TOKEN" in curl and "token=" in python
    answer = client.post("/process", data=fields, headers={"X-API-Key": "sixteen-or-more-letters"})
    assert answer.get_json() == json.loads(shown)
    answer = client.post("/process", data={"job_id": "a"}, headers={"X-API-Key": "sixteen-or-more-letters"})
    assert answer.get_json() == json.loads(error)


def test_what_an_answer_looks_like_is_what_it_looks_like(client: FlaskClient) -> None:
    page = html.unescape(client.get("/docs").text)
    shapes = {
        name: json.loads(shape)
        for name, shape in re.findall(
            r'<h2 id="(\w+)">(?:(?!<h2).)*?<pre[^>]*class="shape">(.*?)</pre>', page, re.S
        )
    }
    form = {"image": (BytesIO(photo_bytes()), "a"), "job_id": "demo", "colors": "white"}
    answers = {"process": client.post("/process", data=form).json}
    answers |= {"getJob": client.get("/jobs/demo").json, "health": client.get("/health").json}
    answers |= {"ready": client.get("/ready").json, "deleteJob": client.delete("/jobs/demo").json}
    assert shapes.keys() == answers.keys()
    for name, answer in answers.items():
        assert outline(shapes[name]) == outline(answer), name
    assert shapes["getJob"]["state"] == "queued | running | completed | failed | cancelled"


def outline(value: object) -> object:
    """The names within a value, without what stands under them; an error may be none."""
    if not isinstance(value, dict):
        return None
    return {name: None if name == "error" else outline(each) for name, each in value.items()}


def test_every_address_can_be_jumped_to_and_the_page_leads_back(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    page = make_app(FakeEngine(), settings).test_client().get("/docs").text
    links = re.findall(r'<a href="#(\w+)">', page)
    assert links == re.findall(r'<h2 id="(\w+)">', page) and len(links) == 7
    assert 'href="./"' in page
    assert (
        'href="./"'
        not in make_app(FakeEngine(), settings.replace(page="off")).test_client().get("/docs").text
    )
