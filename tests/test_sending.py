"""What the client sends and what it makes of odd answers, with servers of bare sockets."""

from __future__ import annotations

import socket
import threading
import time
import traceback
import urllib.request
from email.message import Message
from io import BytesIO

import pytest

from lumiply.client import Client
from lumiply.errors import RemoteError
from lumiply.sending import _KeepToken

TOKEN = "sixteen-or-more-letters"


class Answering:
    """A server of one answer, piece by piece, every `pause` seconds; keeps the requests that it gets."""

    def __init__(self, *pieces: bytes, pause: float = 0.0) -> None:
        self.requests: list[bytes] = []
        self._pieces, self._pause = pieces, pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2]))).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._over.is_set():
                    return
                self.requests.append(connection.recv(65536))
                try:
                    for piece in self._pieces:
                        connection.sendall(piece)
                        if self._over.wait(self._pause):
                            return
                except OSError:
                    pass  # the client has left


def test_a_server_that_trickles_does_not_stretch_the_time_limit() -> None:
    begin = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with Answering(begin, *[b" "] * 900, pause=0.05) as slow:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="timed out"):
            Client(f"http://{slow.address}", timeout=0.4).health()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{}", "the answer broke off, 28 bytes short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", "did not answer as a web server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "did not answer as a web server does: SSH-2.0"),
    ],
)
def test_half_an_answer_and_none_at_all_are_told(answer: bytes, told: str) -> None:
    with Answering(answer) as other, pytest.raises(RemoteError, match=told):
        Client(f"http://{other.address}").health()


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 500\r\n\r\nshort"],
        [b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"],
        [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 50\r\n\r\n", *[b" "] * 900],
    ],
    ids=["short", "in pieces", "slow"],
)
def test_a_refusal_that_breaks_off_is_told_by_its_status(pieces: list[bytes]) -> None:
    with (
        Answering(*pieces, pause=0.05 if len(pieces) > 1 else 0) as other,
        pytest.raises(RemoteError, match="answered 502: no more than that") as caught,
    ):
        Client(f"http://{other.address}", timeout=0.4).health()
    assert caught.value.answered == 502


@pytest.mark.parametrize(
    "url", [f"http://{'a' * 70}.example", "http://..example", "http://127.0.0.1:1/방", "http://[::1"]
)
def test_an_address_that_cannot_be_one_is_told(url: str) -> None:
    with pytest.raises(RemoteError, match="cannot be asked|is no http or https address"):
        Client(url).health()


@pytest.mark.parametrize("token", [f"{TOKEN}\n", "여섯-글자-이상의-비밀"])
def test_a_token_that_no_header_can_carry_is_told_and_not_shown(token: str) -> None:
    with Answering() as other, pytest.raises(RemoteError, match="the address or the token") as caught:
        Client(f"http://{other.address}", token).health()
    assert token.strip() not in "".join(traceback.format_exception(caught.value))


def test_a_redirect_to_another_host_does_not_carry_the_token() -> None:
    body = b'{"status": "healthy"}'
    with Answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body) as other:
        there = f"HTTP/1.1 302 Found\r\nLocation: http://{other.address}/health\r\n\r\n".encode()
        with Answering(there) as first:
            assert Client(f"http://{first.address}", TOKEN).health() == {"status": "healthy"}
    assert TOKEN.encode() in first.requests[0]
    assert TOKEN.encode() not in other.requests[0] and b"Lumiply-Client" in other.requests[0]


@pytest.mark.parametrize(
    ("here", "there", "carried"),
    [
        ("https://a.example/x", "http://a.example/y", False),
        ("https://a.example/x", "https://a.example:8443/y", False),
        ("https://a.example/x", "https://a.example/y", True),
        ("http://a.example/x", "https://a.example/y", True),
    ],
)
def test_a_redirect_carries_the_token_only_to_the_same_host_and_never_out_of_https(
    here: str, there: str, carried: bool
) -> None:
    request = urllib.request.Request(here, headers={"Authorization": f"Bearer {TOKEN}"})
    followed = _KeepToken().redirect_request(request, BytesIO(), 302, "Found", Message(), there)
    assert followed is not None and followed.full_url == there
    assert followed.has_header("Authorization") == carried
