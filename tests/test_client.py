"""`lumiply.Client`: the server from outside."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import lumiply
from lumiply import client
from lumiply.client import Client
from lumiply.colors import COLORS
from lumiply.engine.protocol import Progress
from lumiply.errors import RemoteError, UnknownColorError
from lumiply.images import read_photo
from lumiply.refusals import in_english
from lumiply.server import FlaskServerThread
from lumiply.server.service import Service
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

TOKEN = "sixteen-or-more-letters"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine, tmp_path: Path) -> Iterator[Service]:
    settings = Settings(results_dir=tmp_path / "inference", port=0, token=TOKEN, threads=8, shutdown_s=0)
    with Service(settings, engine) as service:
        yield service


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "room.png"
    path.write_bytes(photo_bytes())
    return path


def test_it_is_part_of_the_package() -> None:
    assert lumiply.Client is Client


def test_a_photo_comes_back_in_all_colours_and_is_saved(
    service: Service, photo: Path, tmp_path: Path
) -> None:
    relit = Client(service.url, TOKEN).relight(photo)
    assert tuple(relit.images) == COLORS
    paths = relit.save(tmp_path / "relit")
    assert [path.name for path in paths] == [f"output_{color}.jpg" for color in COLORS]
    assert all(read_photo(path).size == (40, 30) for path in paths)
    assert relit.urls["red"].endswith(f"/{relit.job_id}/output_red.jpg")


def test_options_reach_the_engine(service: Service, engine: FakeEngine, photo: Path) -> None:
    relit = Client(service.url, TOKEN).relight(
        str(photo), ["blue", "red"], job_id="mine", seed=5, steps=3, preset="fast"
    )
    assert (relit.job_id, tuple(relit.images)) == ("mine", ("red", "blue"))
    [render] = engine.renders
    assert (render.colors, render.seed, render.steps, render.preset) == (("red", "blue"), 5, 3, "fast")


def test_the_address_that_the_server_prints_will_do(service: Service, photo: Path) -> None:
    printed = service.webhook_url
    assert "token=" in printed
    assert Client(printed).relight(photo, ["red"]).images["red"]


def test_progress_is_told_while_it_renders_and_at_the_end(
    service: Service, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "POLL_S", 0.01)
    engine.manual = True
    seen: list[list[tuple[str, str, int, int]]] = []
    running = threading.Event()

    def progress(now: list[client.ColorProgress]) -> None:
        seen.append([(p.color, p.state, p.steps_done, p.steps) for p in now])
        if seen[-1][0][1] == "running":
            running.set()

    def render() -> None:
        found = engine.wait_for(1)
        assert found.progress is not None
        found.progress(Progress("denoise", 3, 7))
        assert running.wait(10)
        found.finish()

    worker = threading.Thread(target=render)
    worker.start()
    Client(service.url, TOKEN).relight(photo, ["red"], progress=progress)
    worker.join()
    assert [("red", "running", 3, 7)] in seen
    assert seen[-1] == [("red", "completed", 7, 7)]


def test_a_time_limit_ends_the_call(service: Service, engine: FakeEngine, photo: Path) -> None:
    engine.manual = True
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"timed out: no answer in 0.\d+ s. Give more with timeout="):
        Client(service.url, TOKEN).relight(photo, ["red"], timeout=0.3)
    assert time.monotonic() - began < 5
    with pytest.raises(RemoteError, match="time limit"):
        Client(service.url, TOKEN).relight(photo, ["red"], timeout=0)


def test_jobs_are_looked_up_and_deleted(service: Service, photo: Path) -> None:
    remote = Client(service.url, TOKEN)
    remote.relight(photo, ["red"], job_id="mine")
    assert remote.job("mine")["state"] == "completed"
    assert remote.delete("mine")["job_id"] == "mine"
    with pytest.raises(RemoteError, match="404"):
        remote.job("mine")
    assert remote.health()["status"] == "healthy"


def test_mistakes_are_named(service: Service, photo: Path) -> None:
    with pytest.raises(RemoteError, match=r"401 \(unauthorized\)") as caught:
        Client(service.url).relight(photo, ["red"])
    assert (caught.value.answered, caught.value.server_code) == (401, "unauthorized")
    assert TOKEN not in str(caught.value)
    assert caught.value.server_sentence is not None and caught.value.server_sentence.startswith(
        "토큰이 없거나"
    )
    with pytest.raises(RemoteError, match="no http or https address"):
        Client("example.com")
    with pytest.raises(OSError):
        Client(service.url, TOKEN).relight(photo.parent / "nowhere.png", ["red"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    with pytest.raises(RemoteError, match="Does the server run"):
        Client(f"http://127.0.0.1:{port}").health()


def test_an_unknown_colour_is_named_in_english_beside_the_colours_there_are(photo: Path) -> None:
    with pytest.raises(UnknownColorError) as caught:
        Client("http://127.0.0.1:1").relight(photo, ["red", "pink"])
    assert caught.value.color == "pink"
    assert str(caught.value) == (
        "unknown colour 'pink'. Choose from white, red, orange, yellow, green, blue, purple"
        " (지원하지 않는 색상입니다: pink)"
    )


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (
            {"seed": -1},
            "invalid_seed",
            "the seed must be a whole number from 0 to 9223372036854775807, got -1",
        ),
        ({"steps": 1001}, "invalid_steps", "steps must be a whole number from 1 to 1000, got 1001"),
        ({"preset": "warp"}, "invalid_preset", "the server has no preset warp. Choose from exact, fast"),
        ({"job_id": "-"}, "invalid_job_id", "a job_id is at most 128 letters"),
    ],
)
def test_a_refusal_is_told_in_english_with_its_figures_and_the_servers_own_words_after_it(
    service: Service, photo: Path, options: dict[str, Any], code: str, sentence: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        Client(service.url, TOKEN).relight(photo, ["red"], **options)
    assert f"400 ({code}): {sentence}" in str(caught.value)
    assert caught.value.server_code == code
    assert str(caught.value).endswith(f" ({caught.value.server_sentence})")


def test_pictures_that_cannot_be_used_are_told_in_english_with_value_and_limit(
    service: Service, tmp_path: Path
) -> None:
    photo = tmp_path / "room.png"
    for data, sentence in (
        (b"no picture", "no readable picture (10 bytes arrived). Send a PNG"),
        (
            photo_bytes(size=(9_000, 6_000)),
            "the picture is too large: 54.0 megapixels, at most 50 megapixels. Send",
        ),
        (photo_bytes(size=(65_501, 1)), "the picture is too large: 65501 x 1, at most 65500 on a side. Send"),
        (bytes(33_000_000), "the file is too large, at most 32 MB. Send"),
    ):
        photo.write_bytes(data)
        with pytest.raises(RemoteError) as caught:
            Client(service.url, TOKEN).relight(photo, ["red"])
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"code": "timeout", "error": "한국어"}, "the render did not end and was given up (한국어)"),
        ({"code": "timeout", "error": "x", "figures": {"seconds": 3}}, "did not end within 3 s and was"),
        ({"code": "timeout", "error": "x", "figures": ["?"]}, "the render did not end and"),
        ({"code": "storage_full", "error": "x", "figures": {"needed": "9.0"}}, "disk is full (x)"),
        ({"code": "of_tomorrow", "error": "한국어"}, "(of_tomorrow): 한국어"),
        (["code"], ': ["code"]'),
    ],
)
def test_older_and_newer_servers_are_understood_too(answer: object, told: str) -> None:
    app = Flask(__name__)
    app.add_url_rule("/health", "health", lambda: (json.dumps(answer), 500))
    with FlaskServerThread(app, "127.0.0.1", 0) as server, pytest.raises(RemoteError) as caught:
        Client(server.url).health()
    assert told in str(caught.value)


def test_every_code_of_the_server_has_its_english() -> None:
    table = (Path(__file__).parents[1] / "docs" / "api.md").read_text().split("## Errors")[1].split("## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if re.match(r"\| \d", line)]
    codes = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(codes) > 25
    assert [code for code in codes if not in_english(code, {})] == []


def test_one_colour_may_be_named_alone(service: Service, photo: Path) -> None:
    assert tuple(Client(service.url, TOKEN).relight(photo, "blue").images) == ("blue",)


def test_a_server_that_is_busy_is_asked_again_while_there_is_time(
    service: Service, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        engine._queue_size = 9

    monkeypatch.setattr(client.time, "sleep", sleep)
    engine._queue_size = 0
    with pytest.raises(RemoteError, match=r"503 \(busy\)"):
        Client(service.url, TOKEN).relight(photo, ["red"], timeout=5)  # less than the server asks for
    assert waits == []
    assert Client(service.url, TOKEN).relight(photo, ["red"]).images["red"]
    assert waits == [10]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b"<!DOCTYPE html> endpoint offline (ERR_NGROK_3200)",
            r"404 \(ERR_NGROK_3200\): no Lumiply server stands",
        ),
        (b"<html>Not here</html>", "404: a web page, not a Lumiply server's answer. Check the address."),
        (b"gone", "404: gone"),
    ],
)
def test_what_is_no_answer_of_ours_is_not_poured_out(photo: Path, body: bytes, words: str) -> None:
    def elsewhere(environ: object, start: Any) -> list[bytes]:
        start("404 Not Found", [("Content-Length", str(len(body)))])
        return [body]

    app = Flask(__name__)
    app.wsgi_app = elsewhere  # type: ignore[method-assign,assignment]
    server = FlaskServerThread(app, "127.0.0.1", 0).start()
    with pytest.raises(RemoteError, match=words):
        Client(server.url).health()
    server.shutdown()
