"""Pushing a finished answer to the address that its request named, if the operator allowed that host."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from lumiply.errors import CallbackRefusedError

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0


class Sender(Protocol):
    """The one way out: posts a JSON body, within a time limit."""

    def post(self, url: str, body: bytes) -> int:
        """Post `body` and return the HTTP status. Raises OSError if there is none."""
        ...


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing: a redirect could lead from an allowed host to any other."""


class UrllibSender:
    """Sends by the standard library: no redirects, no proxies."""

    def __init__(self, timeout: float = TIMEOUT_S) -> None:
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))

    def post(self, url: str, body: bytes) -> int:
        headers = {"Content-Type": "application/json", "User-Agent": "Lumiply"}
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")
        with self._opener.open(request, timeout=self._timeout) as response:
            return int(response.status)


class Callbacks:
    """Checks callback addresses and delivers to them in the background."""

    def __init__(self, allowed_hosts: Sequence[str], sender: Sender | None = None) -> None:
        self._allowed = frozenset(allowed_hosts)
        self._sender = sender or UrllibSender()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="lumiply-callback")

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
        if parts.scheme not in ("http", "https") or parts.username is not None or not named & self._allowed:
            raise CallbackRefusedError(
                "허용되지 않은 callback_url입니다. 비워 두거나, 서버의 LUMIPLY_CALLBACK_HOSTS에"
                " 호스트를 등록해 주세요."
            )

    def deliver(self, url: str, answer: Mapping[str, Any]) -> Future[None] | None:
        """Send `answer` soon, from another thread; a failure is logged and harms nobody. None once closed."""
        body = json.dumps(answer, ensure_ascii=False).encode()
        try:
            return self._pool.submit(self._send, url, body)
        except RuntimeError:  # closed
            log.warning("callback to %s dropped: shutting down", urlsplit(url).hostname)
            return None

    def close(self) -> None:
        """Drop what has not been sent. Safe to call twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, url: str, body: bytes) -> None:
        host = urlsplit(url).hostname
        try:
            status = self._sender.post(url, body)
        except Exception as exc:  # an outside program's fault, whatever it is
            log.warning("callback to %s failed: %s", host, exc)
        else:
            log.info("callback to %s answered %d", host, status)
