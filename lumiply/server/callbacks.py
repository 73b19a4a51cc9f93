"""Pushing a finished answer to the address that its request named, if the operator allowed that host."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from lumiply.errors import CallbackRefusedError
from lumiply.server.outbound import PinnedSender, Sender

log = logging.getLogger(__name__)

#: Seconds before each further try.
RETRY_AFTER_S: Final = (2.0, 15.0, 60.0)
#: Deliveries that may wait.
MOST_WAITING: Final = 1000
#: Threads that deliver.
_THREADS: Final = 2

#: `t=<seconds since 1970>,v1=<hexadecimal HMAC-SHA256 of "<t>.<body>" under the secret key>`
SIGNATURE_HEADER: Final = "X-Lumiply-Signature"


@dataclass(order=True)
class _Delivery:
    due: float
    number: int
    url: str = field(compare=False)
    body: bytes = field(compare=False)
    tries: int = field(default=0, compare=False)


def signature(secret: str, body: bytes, now: int) -> str:
    """The value of `SIGNATURE_HEADER`."""
    mac = hmac.new(secret.encode(), f"{now}.".encode() + body, hashlib.sha256)
    return f"t={now},v1={mac.hexdigest()}"


class Callbacks:
    """Checks callback addresses and delivers to them in the background."""

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        sender: Sender | None = None,
        *,
        secret: Callable[[], str] = lambda: "",
        outcome: Callable[[str], None] = lambda outcome: None,
        retry_after_s: Sequence[float] = RETRY_AFTER_S,
    ) -> None:
        """Nothing is sent, and no thread started, before `deliver` is called.

        Args:
            secret: gives the key of the signature header.
            outcome: told "delivered", "retried", "failed" or "dropped".
        """
        self._allowed = frozenset(allowed_hosts)
        self._sender = sender or PinnedSender()
        self._secret, self._outcome = secret, outcome
        self._retry_after = tuple(retry_after_s)
        self._changed = threading.Condition()
        self._waiting: list[_Delivery] = []
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def check(self, url: str) -> None:
        """Refuse an address that nothing may be sent to.

        Raises:
            CallbackRefusedError: not http(s), or its host is not on the allow-list.
        """
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        named = {host, f"{host}:{port or (443 if parts.scheme == 'https' else 80)}"}
        strange = any(ord(char) <= 32 or ord(char) >= 127 for char in url)
        if (
            strange
            or parts.scheme not in ("http", "https")
            or parts.username is not None
            or not named & self._allowed
        ):
            raise CallbackRefusedError(
                "허용되지 않은 callback_url입니다. 비워 두거나, 서버의 LUMIPLY_CALLBACK_HOSTS에"
                " 호스트를 등록해 주세요."
            )

    def deliver(self, url: str, answer: Mapping[str, Any]) -> bool:
        """Send `answer` soon, from another thread; a failure harms nobody. Whether it will be tried."""
        body = json.dumps(answer, ensure_ascii=False).encode()
        with self._changed:
            accepted = not self._closed and len(self._waiting) < MOST_WAITING
            if accepted:
                self._start()
                heapq.heappush(self._waiting, _Delivery(time.monotonic(), next(self._numbers), url, body))
                self._changed.notify()
        if not accepted:
            log.warning("callback to %s dropped: closed, or too many wait", urlsplit(url).hostname)
            self._outcome("dropped")
        return accepted

    def close(self) -> None:
        """Drop what has not been sent. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _start(self) -> None:
        while len(self._threads) < _THREADS:
            thread = threading.Thread(target=self._work, name="lumiply-callback", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (delivery := self._next()) is not None:
            self._send(delivery)

    def _next(self) -> _Delivery | None:
        with self._changed:
            while not self._closed:
                left = self._waiting[0].due - time.monotonic() if self._waiting else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._waiting)
                self._changed.wait(left)
        return None

    def _send(self, delivery: _Delivery) -> None:
        host = urlsplit(delivery.url).hostname
        headers = {"Content-Type": "application/json", "User-Agent": "Lumiply"}
        try:
            headers[SIGNATURE_HEADER] = signature(self._secret(), delivery.body, int(time.time()))
            status = self._sender.post(delivery.url, delivery.body, headers)
            problem, again = f"HTTP {status}", status >= 500 or status in (408, 429)
        except CallbackRefusedError as exc:
            status, problem, again = 0, str(exc), False
        except Exception as exc:  # an outside program's fault, whatever it is
            status, problem, again = 0, str(exc), True
        if 200 <= status < 300:
            self._outcome("delivered")
            log.info("callback to %s answered %d", host, status)
        elif again and delivery.tries < len(self._retry_after):
            self._outcome("retried")
            log.info("callback to %s: %s; trying again", host, problem)
            delivery.due = time.monotonic() + self._retry_after[delivery.tries]
            delivery.tries += 1
            with self._changed:
                if not self._closed:
                    heapq.heappush(self._waiting, delivery)
                    self._changed.notify()
        else:
            self._outcome("failed")
            log.warning("callback to %s failed: %s", host, problem)
