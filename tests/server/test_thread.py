"""`FlaskServerThread`, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from lumiply import client
from lumiply.colors import COLORS
from lumiply.errors import AddressError, RemoteError
from lumiply.server import FlaskServerThread
from tests.fakes import FakeEngine, photo_bytes


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "room.png"
    path.write_bytes(photo_bytes())
    return path


def test_the_gateways_whole_way_over_real_http(app: Flask, engine: FakeEngine, photo: Path) -> None:
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        webhook = f"{server.url}/process"
        assert json.loads(client.fetch(webhook.replace("/process", "/health")))["status"] == "healthy"
        for color in COLORS:
            result = client.process(server.url, photo, "c1f0dffe", color)["result"]
            assert client.fetch(result["images"][color])[:2] == b"\xff\xd8"
            assert client.fetch(result["input_image_url"])[:4] == b"\x89PNG"
    assert len(engine.renders) == 1


def test_errors_arrive_as_sentences(app: Flask, photo: Path) -> None:
    with (
        FlaskServerThread(app, "127.0.0.1", 0) as server,
        pytest.raises(RemoteError, match=r"400 \(unknown_color\): .*지원하지 않는 색상입니다: pink"),
    ):
        client.process(server.url, photo, "job", "pink")


def test_health_answers_within_100_ms_while_renders_wait(make_app: Callable[..., Flask], photo: Path) -> None:
    engine = FakeEngine(manual=True)
    with FlaskServerThread(make_app(engine), "127.0.0.1", 0) as server, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.process, server.url, photo, "job", color) for color in COLORS]
        render = engine.wait_for(1)
        times = []
        for _ in range(20):
            started = time.perf_counter()
            assert json.loads(client.fetch(f"{server.url}/health"))["queue"]["length"] == 1
            times.append(time.perf_counter() - started)
        render.finish()
        assert all(answer.result(10)["status"] == "completed" for answer in waiting)
    assert sorted(times)[10] < 0.1


@pytest.mark.parametrize("megabytes", [33, 65])  # the application refuses the one, its server the other
def test_a_body_over_the_limit_is_answered_not_cut_off(
    make_app: Callable[..., Flask], engine: FakeEngine, tmp_path: Path, megabytes: int
) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(bytes(megabytes * 1_000_000))
    with (
        FlaskServerThread(make_app(engine), "127.0.0.1", 0) as server,
        pytest.raises(RemoteError, match=r"413 .*at most 32 MB.*한도 32MB"),
    ):
        client.process(server.url, big, "job", "red")


@pytest.mark.parametrize("sent", [b"garbage\r\n\r\n", b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_is_answered_as_json(app: Flask, sent: bytes) -> None:
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(sent)
            answer = stream.readlines()
    assert json.loads(answer[-1])["code"] == "bad_request"


def test_a_port_in_use_is_explained(app: Flask) -> None:
    with (
        FlaskServerThread(app, "127.0.0.1", 0) as server,
        pytest.raises(AddressError, match=rf"port {server.port}: .* --port"),
    ):
        FlaskServerThread(app, "127.0.0.1", server.port).start()


def test_a_foreign_address_is_explained(app: Flask) -> None:
    with pytest.raises(AddressError, match="Cannot listen on"):
        FlaskServerThread(app, "203.0.113.1", 0).start()


def test_start_and_shutdown_may_be_called_twice_and_again(app: Flask) -> None:
    server = FlaskServerThread(app, "127.0.0.1", 0)
    assert server.start() is server.start()
    port = server.port
    server.shutdown()
    server.shutdown()
    assert not server.is_running
    server.start()
    assert server.port == port
    server.shutdown()


def test_shutdown_frees_the_port(app: Flask) -> None:
    server = FlaskServerThread(app, "127.0.0.1", 0).start()
    server.shutdown()
    FlaskServerThread(app, "127.0.0.1", server.port).start().shutdown()


def test_the_url_of_all_addresses_is_this_machine(app: Flask) -> None:
    assert FlaskServerThread(app, "0.0.0.0", 5000).url == "http://127.0.0.1:5000"
    assert FlaskServerThread(app, "::1", 5000).url == "http://[::1]:5000"


def test_no_threads_are_left_behind(app: Flask) -> None:
    app.test_client().get("/health")  # starts the application's own
    before = threading.active_count()
    with FlaskServerThread(app, "127.0.0.1", 0) as server, urllib.request.urlopen(f"{server.url}/health"):
        pass
    assert threading.active_count() <= before
