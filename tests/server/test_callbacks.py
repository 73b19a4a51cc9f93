"""Where answers may be pushed, and where not."""

from __future__ import annotations

import http.server
import threading
import urllib.error
from collections.abc import Iterator

import pytest

from lumiply.errors import CallbackRefusedError
from lumiply.server.callbacks import Callbacks, UrllibSender
from tests.fakes import FakeSender


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example/x",
        "http://good.example:8000/x",
        "https://GOOD.example",
        "http://exact.example:8080/",
    ],
)
def test_allowed_hosts_are_allowed(url: str) -> None:
    Callbacks(["good.example", "exact.example:8080"], FakeSender()).check(url)


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/", "ftp://good.example/", "file:///etc/passwd", "good.example", "//good.example/",
     "https://good.example@evil.example/", "https://user@good.example/", "https://good.example.evil.example/",
     "https://evil.example/good.example", "http://exact.example/", "http://exact.example:99999/", "http://[::1",
     "http://169.254.169.254/latest/meta-data", "javascript:alert(1)", "http:///x"],
)  # fmt: skip
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(CallbackRefusedError, match="LUMIPLY_CALLBACK_HOSTS"):
        Callbacks(["good.example", "exact.example:8080"], FakeSender()).check(url)


def test_without_an_allow_list_nothing_is_allowed() -> None:
    with pytest.raises(CallbackRefusedError):
        Callbacks([], FakeSender()).check("https://good.example/")


def test_after_closing_nothing_is_sent() -> None:
    sender = FakeSender()
    callbacks = Callbacks(["good.example"], sender)
    callbacks.close()
    assert callbacks.deliver("https://good.example/", {}) is None
    assert sender.sent == []


class Receiver(http.server.BaseHTTPRequestHandler):
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "/landed")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.bodies = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_sender_posts_json(receiver: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{receiver.server_address[1]}/ok"
    assert UrllibSender().post(url, b'{"a": 1}') == 200
    assert receiver.bodies == [b'{"a": 1}']  # type: ignore[attr-defined]


def test_the_sender_follows_no_redirect(receiver: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        UrllibSender().post(f"http://127.0.0.1:{receiver.server_address[1]}/away", b"{}")
    caught.value.close()
    assert len(receiver.bodies) == 1  # type: ignore[attr-defined]
