"""The one way out: an HTTP POST to an address that was looked up once, checked, and is then the one connected to."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

from lumiply.errors import CallbackRefusedError

TIMEOUT_S: Final = 10.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Never reached, whatever is configured: cloud metadata services.
_METADATA: Final = tuple(
    map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32"))
)
#: IPv6 ranges that lead to IPv4 addresses: NAT64, 6to4, Teredo.
_TRANSLATED: Final = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)


class Sender(Protocol):
    """Posts a JSON body, within a time limit."""

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post `body` and return the HTTP status. Raises OSError or CallbackRefusedError if there is none."""
        ...


def check_address(text: str, allow_private: bool) -> Address:
    """An address that may be connected to.

    Raises:
        CallbackRefusedError: it is private (unless allowed), a metadata service's, or no single machine's.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    refused = (
        address.is_multicast
        or address.is_unspecified
        or any(address in network for network in (*_METADATA, *_TRANSLATED))
    )
    if refused or not (address.is_global or (allow_private and (address.is_private or address.is_loopback))):
        raise CallbackRefusedError(f"callback_url이 허용되지 않은 주소를 가리킵니다: {address}")
    return address


class PinnedSender:
    """Sends with the standard library: one look-up, no redirects, no proxies, the whole within a time limit."""

    def __init__(self, allow_private: bool = False, timeout: float = TIMEOUT_S) -> None:
        self._allow_private, self._timeout = allow_private, timeout

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        deadline = time.monotonic() + self._timeout
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        connection.sock = stream = self._connect(host, port, secure)
        try:
            with _cut_off(stream, deadline):
                if isinstance(stream, ssl.SSLSocket):
                    stream.do_handshake()
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("POST", target, body, {**headers, "Connection": "close"})
                return int(connection.getresponse().status)  # a redirect is an answer like any other
        except http.client.HTTPException as exc:
            raise OSError(f"no HTTP answer: {type(exc).__name__}") from exc
        finally:
            connection.close()

    def _connect(self, host: str, port: int, secure: bool) -> socket.socket:
        """A connection; where it is to be secure, all but the handshake."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
        check_address(address, self._allow_private)
        stream = socket.create_connection((address, port), self._timeout)
        if not secure:
            return stream
        try:
            context = ssl.create_default_context()
            return context.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
        except BaseException:
            stream.close()
            raise


@contextlib.contextmanager
def _cut_off(stream: socket.socket, deadline: float) -> Iterator[None]:
    """Whatever the block does with a connection ends by the deadline: a socket's own limit is one for each read.

    Raises:
        TimeoutError: it had to be cut off.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):  # closed already
            socket.socket.shutdown(stream, socket.SHUT_RDWR)  # of TLS, too, what lies beneath

    timer = threading.Timer(deadline - time.monotonic(), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as exc:
        if late.is_set():
            raise TimeoutError("timed out") from exc
        raise
    finally:
        timer.cancel()
        timer.join()  # after this, nothing is shut that somebody else opened since
    if late.is_set():  # half an answer may look like one
        raise TimeoutError("timed out")
