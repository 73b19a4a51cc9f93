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
from typing import Any

import pytest
from flask import Flask

from lumiply import client
from lumiply.colors import COLORS
from lumiply.errors import AddressError, RemoteError
from lumiply.sending import encode_form
from lumiply.server import FlaskServerThread
from lumiply.settings import Settings
from tests.fakes import PATIENCE_S, FakeEngine, photo_bytes, wait_until


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


def test_health_and_readiness_are_told_while_every_thread_is_taken(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    app, release, taken = make_app(FakeEngine(), settings.replace(threads=8)), threading.Event(), []

    @app.get("/hang")
    def hang() -> str:
        taken.append(1)
        assert release.wait(PATIENCE_S)
        return "done"

    with FlaskServerThread(app, "127.0.0.1", 0) as server, ThreadPoolExecutor(12) as pool:
        hung = [pool.submit(client.fetch, f"{server.url}/hang") for _ in range(12)]
        wait_until(lambda: len(taken) == 8)
        assert json.loads(client.fetch(f"{server.url}/health?token=x", 5))["status"] == "healthy"
        assert json.loads(client.fetch(f"{server.url}/ready", 5))["ready"]
        release.set()
        assert [answer.result(10) for answer in hung] == [b"done"] * 12


def test_many_questions_on_one_connection_wait_in_line_and_are_all_answered(app: Flask) -> None:
    """Were the loop to answer them all at once, everybody else would wait for it meanwhile."""
    in_loop, ends = 0, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    @app.before_request
    def count() -> None:
        nonlocal in_loop
        in_loop += threading.current_thread().name == "lumiply-server"

    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + ends)
            assert stream.read().count(b"HTTP/1.1 200 OK") == 51
    assert in_loop <= 1  # the last, if it came by itself


def test_all_who_connect_in_the_same_moment_are_let_in_together(app: Flask) -> None:
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(100)]
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        for connection in connections:
            with connection, connection.makefile("rb") as stream:
                assert stream.readline() == b"HTTP/1.0 200 OK\r\n"


def test_any_other_application_is_served_as_well() -> None:
    def plain(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [threading.current_thread().name.encode()]

    with FlaskServerThread(plain, "127.0.0.1", 0) as server:
        assert client.fetch(f"{server.url}/health").startswith(b"waitress-")  # nobody said that it is quick


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


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [("*", b"*"), ("https://a.example", b"https://a.example"), ("https://b.example", None), ("", None)],
)
def test_pages_that_may_call_can_read_what_never_reaches_the_application(
    make_app: Callable[..., Flask], settings: Settings, origins: str, allowed: bytes | None
) -> None:
    app = make_app(FakeEngine(), settings.replace(cors_origins=origins, max_upload_mb=1))
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(
                b"POST /process HTTP/1.1\r\nOrigin: https://a.example\r\nContent-Length: 3000000\r\n\r\n"
            )
            head = stream.read().partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == b"HTTP/1.1 413 Request Entity Too Large"
    found = [line.partition(b": ")[2] for line in head if line.startswith(b"Access-Control-Allow-Origin")]
    assert found == ([] if allowed is None else [allowed])


@pytest.mark.parametrize("public_url", [None, "https://lamps.example"])
def test_without_a_host_header_results_are_linked_under_the_public_url_or_not_at_all(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings, public_url: str | None
) -> None:
    kind, body = encode_form({"job_id": "a", "color": "red"}, "image", "a.png", photo_bytes())
    head = f"POST /process HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with FlaskServerThread(make_app(engine, settings.replace(public_url=public_url)), port=0) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(head.encode() + body)
            answer = json.loads(stream.read().partition(b"\r\n\r\n")[2])
    if public_url is None:
        assert answer["code"] == "bad_request" and engine.renders == []
    else:
        assert answer["result"]["input_image_url"].startswith(public_url)


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


def test_a_loop_that_is_woken_by_another_thread_may_end_before_it_is_told_to(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FlaskServerThread(app, "127.0.0.1", 0).start()
    assert server._loop is not None
    trigger = server._loop._server.trigger
    pull = trigger._physical_pull

    def late() -> None:
        pull()  # another thread's, whose answer is ready
        wait_until(lambda: not trigger.thunks)
        pull()

    monkeypatch.setattr(trigger, "_physical_pull", late)
    server.shutdown()
    assert not server.is_running and trigger._fds == []


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
