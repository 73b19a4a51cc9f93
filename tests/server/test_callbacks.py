"""Where answers may be pushed, and where not."""

from __future__ import annotations

import contextlib
import hmac
import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from lumiply.errors import CallbackRefusedError
from lumiply.server.callbacks import SIGNATURE_HEADER, Callbacks, signature
from lumiply.server.outbound import PinnedSender, check_address
from tests.fakes import PATIENCE_S, FakeSender


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
    assert not callbacks.deliver("https://good.example/", {})
    assert sender.sent == []


class Outcomes:
    """Collects what becomes of deliveries, and lets a test wait for the last."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.ended = threading.Event()

    def __call__(self, outcome: str) -> None:
        self.seen.append(outcome)
        if outcome != "retried":
            self.ended.set()


def test_a_delivery_is_signed_over_time_and_body() -> None:
    sender, outcomes = FakeSender(), Outcomes()
    callbacks = Callbacks(["good.example"], sender, secret=lambda: "key", outcome=outcomes)
    assert callbacks.deliver("https://good.example/", {"a": "작업"})
    assert outcomes.ended.wait(PATIENCE_S)
    [(_, body)] = sender.sent
    when = int(re.match(r"t=(\d+),v1=", sender.headers[SIGNATURE_HEADER])[1])
    assert sender.headers[SIGNATURE_HEADER] == signature("key", body, when)
    assert abs(time.time() - when) < 60
    mac = hmac.new(b"key", f"{when}.".encode() + body, "sha256").hexdigest()
    assert signature("key", body, when) == f"t={when},v1={mac}" != signature("other", body, when)
    callbacks.close()


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        ([OSError("refused"), 503, 200], ["retried", "retried", "delivered"]),
        ([500, 500, 500], ["retried", "retried", "failed"]),
        ([404], ["failed"]),
        ([302], ["failed"]),
        ([CallbackRefusedError("private")], ["failed"]),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(
    answers: list[int | Exception], seen: list[str]
) -> None:
    class Scripted:
        def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    outcomes = Outcomes()
    callbacks = Callbacks(["good.example"], Scripted(), outcome=outcomes, retry_after_s=(0.0, 0.0))
    callbacks.deliver("https://good.example/", {})
    assert outcomes.ended.wait(PATIENCE_S)
    assert outcomes.seen == seen and answers == []
    callbacks.close()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "::ffff:127.0.0.1",
     "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "2001:0:7f00:1::"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(CallbackRefusedError):
        check_address(address, allow_private=False)


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1", "fe80::1"])
def test_metadata_services_are_refused_even_where_private_addresses_are_allowed(address: str) -> None:
    with pytest.raises(CallbackRefusedError):
        check_address(address, allow_private=True)


@pytest.mark.parametrize(
    ("address", "private"),
    [("8.8.8.8", False), ("2606:4700::1", False), ("127.0.0.1", True), ("10.0.0.1", True)],
)
def test_other_addresses_are_allowed(address: str, private: bool) -> None:
    check_address(address, allow_private=private)


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append((self.path, self.headers["Host"], body))  # type: ignore[attr-defined]
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


def test_the_sender_looks_a_name_up_once_and_connects_to_what_it_checked(
    receiver: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: look_up(host, *a, **k) if host == "good.test" else real(host, *a, **k),
    )
    port = receiver.server_address[1]
    sender = PinnedSender(allow_private=True)
    assert (
        sender.post(f"http://good.test:{port}/ok?a=1", b'{"a": 1}', {"Content-Type": "application/json"})
        == 200
    )
    assert receiver.bodies == [("/ok?a=1", f"good.test:{port}", b'{"a": 1}')]  # type: ignore[attr-defined]
    assert asked == ["good.test"]


def test_a_name_that_leads_to_a_private_address_is_refused(receiver: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(CallbackRefusedError):
        PinnedSender().post(f"http://localhost:{receiver.server_address[1]}/", b"{}", {})
    assert receiver.bodies == []  # type: ignore[attr-defined]


def test_the_sender_follows_no_redirect(receiver: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{receiver.server_address[1]}/away"
    assert PinnedSender(allow_private=True).post(url, b"{}", {}) == 302
    assert len(receiver.bodies) == 1  # type: ignore[attr-defined]


def test_what_answers_nothing_is_an_os_error_within_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        PinnedSender(allow_private=True, timeout=0.05).post(url, b"{}", {})


def test_an_answer_that_trickles_is_cut_off_at_the_time_limit() -> None:
    ended = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300:
                connection.sendall(bytes([byte]))
                if ended.wait(0.01):
                    return
            connection.sendall(b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            PinnedSender(allow_private=True, timeout=0.2).post(url, b"{}", {})
        ended.set()
        thread.join()
