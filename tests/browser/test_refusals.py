"""What the page says when something fails, and that nothing is lost by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from lumiply.colors import COLORS
from lumiply.server import EngineSlot, FlaskServerThread
from tests.browser.between import Failing, Unreachable
from tests.browser.visitor import Visitor
from tests.fakes import FakeEngine

Serve = Callable[..., FlaskServerThread]
Visit = Callable[..., Visitor]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.parametrize(
    ("data", "name", "type", "part"),
    [
        (b"words", "notes.txt", "text/plain", "not a picture"),
        (b"no png", "room.png", "image/png", "cannot be opened"),
    ],
)
def test_what_is_no_photo_is_refused_in_words(
    serve: Serve, visit: Visit, engine: FakeEngine, data: bytes, name: str, type: str, part: str
) -> None:
    page = visit(serve(engine)).drop(data, name, type)
    assert part in page.notice()
    assert page.view == "empty"
    page.click("#language")
    page.drop(data, name, type)
    assert "PNG, JPEG, WebP" in page.notice() and part not in page.notice()


@pytest.mark.parametrize(
    ("limit", "english", "korean"),
    [
        (
            {"max_upload_mb": 0.002},
            "This photo's file is larger than the server takes, at most 0.002 MB. Choose a smaller one.",
            "한도 0.002MB",
        ),
        (
            {"max_megapixels": 0.01},
            "This photo has more pixels than the server takes: 0.1 megapixels, at most 0.01 megapixels."
            " Choose a smaller one.",
            "0.1메가픽셀 (한도 0.01메가픽셀)",
        ),
    ],
)
def test_a_photo_that_is_too_large_for_the_server_is_told_in_words_with_value_and_limit(
    serve: Serve, visit: Visit, engine: FakeEngine, limit: dict[str, float], english: str, korean: str
) -> None:
    noise = Image.effect_noise((320, 240), 90).convert("RGB")
    noise.save(buffer := BytesIO(), "PNG")
    page = visit(serve(engine, **limit)).drop(buffer.getvalue()).wait_view("edit").click("#relight")
    assert page.notice() == english
    assert page.view == "edit"
    page.click("#language").click("#relight")
    assert korean in page.notice()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            {"code": "timeout", "error": "한국어", "figures": {"seconds": "290"}},
            "Rendering did not end within 290 seconds and was given up. Try again in a moment.",
        ),
        (
            {
                "code": "image_too_large",
                "error": "x",
                "figures": {"width": "7", "height": "9", "side_limit": "8"},
            },
            "This photo has more pixels than the server takes: 7 x 9, at most 8 on a side. Choose a smaller one.",
        ),
        (
            {"code": "invalid_seed", "error": "한국어", "figures": {"given": "9", "low": "0", "high": "8"}},
            "The server does not take this seed: 9. Choose another under More, from 0 to 8.",
        ),
        (
            {"code": "storage_full", "error": "한국어", "figures": {"needed": "9.0"}},  # and what is free?
            "The server's disk is full. Tell whoever runs it.",
        ),
        (
            {"code": "invalid_preset", "error": "한국어", "figures": {"given": "{known}", "known": "[a]"}},
            "The server does not know this preset: {known}. Choose another under More: [a].",
        ),
        (
            {"code": "of_tomorrow", "error": "한국어"},
            "Something went wrong. Try again in a moment. (of_tomorrow)",
        ),
        ({"code": "of_tomorrow", "error": "In English."}, "In English."),
    ],
)
def test_the_english_page_tells_errors_in_english_with_the_figures_there_are(
    serve: Serve, visit: Visit, engine: FakeEngine, answer: dict[str, Any], told: str
) -> None:
    failing = Failing({"/process": ("422 Unprocessable", json.dumps(answer).encode())}, times=9)
    page = visit(serve(engine, failing.around)).drop().wait_view("edit").click("#relight")
    assert page.notice() == told


def test_a_server_that_is_gone_is_told_in_words_and_found_again(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    gate = Unreachable()
    page = visit(serve(engine, gate.around)).drop().wait_view("edit")
    page.wait(lambda: page.find("#health").text.startswith("Ready"), "it was not there")
    gate.closed = True
    page.click("#relight").wait(lambda: page.find("#stage-name").text == "The connection broke", "not told")
    assert "cannot be reached" in page.notice()
    page.wait(lambda: page.find("#health").text == "No connection", "the header knows nothing")
    gate.closed = False
    page.click("#retry").wait_view("done")


def test_a_tunnel_with_nothing_behind_it_is_told_in_words(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page_of_ngrok = b"<html>The endpoint a.ngrok-free.dev is offline. ERR_NGROK_3200</html>"
    page = visit(serve(engine, Failing({"/process": ("404 Not Found", page_of_ngrok)}, times=9).around))
    page.drop().wait_view("edit").click("#relight")
    assert (
        page.notice() == "The server behind this address has stopped. Ask whoever runs it to start it again."
    )
    page.click("#language").click("#relight")
    assert "꺼져 있습니다" in page.notice()


def test_a_servers_refusal_is_told_in_words_and_can_be_tried_again(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(queue_size=0)
    page = visit(serve(engine)).drop().wait_view("edit").click("#relight")
    assert page.notice() == "Many people are relighting rooms right now. Try again in a moment."
    assert page.view == "edit"
    engine._queue_size = 9
    page.click("#retry").wait_view("done")
    assert not page.find("#notice").is_displayed()


def test_trying_again_takes_the_lamps_and_the_seed_as_they_are_then(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(queue_size=0)
    page = visit(serve(engine)).drop().wait_view("edit").click("#relight")
    page.notice()
    engine._queue_size = 9
    page.click("[data-lamp=table]").click("#more summary")
    page.press(page.find("#seed"), "7").click("#retry").wait_view("done")
    [render] = engine.renders
    assert render.seed == 7
    assert len(set(render.photo.tobytes())) > 3  # a lamp on a plain photo


def test_a_colour_that_the_server_lacks_is_named_and_the_rest_is_there(serve: Serve, visit: Visit) -> None:
    page = visit(serve(FakeEngine(colors=("white", "red", "blue")))).relight()
    assert page.ready() == ["white", "red", "blue"]
    assert page.find("#missing").text.startswith("Orange, Yellow, Green, Purple")
    page.press(page.click("[data-color=red]").find("[data-color=red]"), Keys.ARROW_RIGHT)
    assert page.chosen == "blue"


def test_while_the_model_loads_the_page_waits_and_then_begins(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    slot = EngineSlot()
    page = visit(serve(slot)).drop().wait_view("edit").click("#relight")
    page.wait(
        lambda: page.find("#stage-name").text == "The model is loading", "it does not say that it waits"
    )
    slot.put(engine)
    page.wait_view("done")


def test_a_broken_connection_is_tried_again(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine, Failing({"/process": ("502 Bad Gateway", b"<html>")}, times=1).around))
    assert page.relight().ready() == list(COLORS)
