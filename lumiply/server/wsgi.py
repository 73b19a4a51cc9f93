"""waitress, with what it lacks: errors as JSON that arrive, a time within which a request must have come, and answers
that wait for nobody.

waitress reads requests and writes answers in one loop for all connections; a thread is busy only while the
application works. So slow clients, however many, cost no threads (benchmarks/results/servers.md). Threads take turns
(`lumiply.server.turns`), and whether the server is alive and ready the loop answers by itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error

from lumiply.server.answers import error_body
from lumiply.server.turns import TurnDispatcher
from lumiply.server.views import BEGAN

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

#: Connections that wait for `accept`, and those that are open, at most.
BACKLOG: Final = 256
MOST_CONNECTIONS: Final = 800
#: Seconds after which a connection on which nothing happens is closed.
IDLE_S: Final = 60
#: Seconds for which what a refused client still sends is read and dropped.
LINGER_S: Final = 10.0

#: Bytes taken from a connection at once; those of a body that are kept in memory, the rest going to a temporary file.
_RECEIVE_BYTES: Final = 262_144
_IN_MEMORY_BYTES: Final = 4 * 2**20

#: Bodies up to this many times the application's limit are read, so that it can answer that they are too large.
_READ_BEYOND: Final = 2

_CODES: Final = {
    400: ("bad_request", "HTTP 요청 형식이 올바르지 않습니다 (400)."),
    408: ("request_timeout", "업로드가 제시간에 끝나지 않았습니다. 다시 보내 주세요."),
    413: ("upload_too_large", "업로드가 너무 큽니다 (한도 {limit}MB). 더 작은 파일로 다시 보내 주세요."),
    431: ("bad_request", "HTTP 헤더가 너무 깁니다 (431)."),
    501: ("bad_request", "지원하지 않는 전송 방식입니다 (501)."),
    507: ("storage_full", "서버의 저장 공간이 부족합니다. 잠시 후 다시 요청해 주세요."),
}


class _TooSlow(Error):
    code = 408
    reason = "Request Timeout"


class _NoSpace(Error):
    code = 507
    reason = "Insufficient Storage"


@dataclass(frozen=True)
class Refusal:
    """A request that never reached the application: how it was answered; method and path are empty if unknown."""

    status: int
    code: str
    method: str
    path: str
    remote: str


class _JsonErrorTask(ErrorTask):
    """Answers what never reaches the application as the application answers its own errors."""

    def execute(self) -> None:
        error = self.request.error
        code, sentence = _CODES.get(error.code, ("internal_error", "서버 내부 오류가 발생했습니다."))
        figures = {"limit": f"{self.channel.server.max_upload_mb:g}"} if error.code == 413 else {}
        body = json.dumps(error_body(sentence.format(**figures), code, figures), ensure_ascii=False).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers += _cors(self.channel.server.cors_origins, self.request.headers.get("ORIGIN"))
        self.set_close_on_finish()
        self.content_length = len(body)
        method, path = (getattr(self.request, name, "") for name in ("command", "path"))
        self.channel.server.on_refused(Refusal(error.code, code, method, path, self.channel.addr[0]))
        self.write(body)


def _cors(origins: Collection[str], origin: str | None) -> list[tuple[str, str]]:
    """The headers that let a page of `origin` read an answer, if it is among `origins`; those of the application."""
    if "*" in origins:
        return [("Access-Control-Allow-Origin", "*")]
    if origin is not None and origin in origins:
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
    return []


class _Request(HTTPRequestParser):
    """A request that knows when its first byte came. Blank lines before it, which old clients send, do not count."""

    headers_finished: bool
    header_plus: bytes

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.began = time.time()

    @property
    def is_blank(self) -> bool:
        """Whether nothing of it has come yet."""
        return not self.headers_finished and not self.header_plus.strip()

    def received(self, data: bytes) -> int:
        if self.is_blank:
            self.began = time.time()
        return int(super().received(data))


class _Task(WSGITask):
    """Tells the application when its request began, so that its deadline counts from there."""

    def get_environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environment()
        environment[BEGAN] = self.request.began
        return environment


class _Channel(HTTPChannel):
    """A connection that answers what it refuses before it closes."""

    parser_class = _Request
    task_class = _Task
    error_task_class = _JsonErrorTask
    request: _Request | None = None  # the one that is arriving
    close_when_flushed: bool
    refused = False  # an error was answered before all had arrived
    is_urgent = False  # what has just come is to be answered by the loop itself
    lingers_until: float | None = None

    def received(self, data: bytes) -> bool:
        try:
            received = bool(super().received(data))
        except OSError as exc:  # a large body goes to a temporary file
            log.error("upload not buffered: %s", exc)
            self.give_up(_NoSpace(""))
            return False
        if self.is_urgent:
            self.is_urgent = False
            self.server.answer(self)
        return received

    def service(self) -> None:
        self.refused = self.requests[0].error is not None
        super().service()
        if (arriving := self.request) is not None:
            arriving.began = time.time()  # it was not read meanwhile

    def readable(self) -> bool:
        return self.lingers_until is not None or bool(super().readable())

    def handle_write(self) -> None:
        """As waitress; but closing while the client still sends would reset the connection under the answer."""
        if self.refused and self.close_when_flushed and not self.total_outbufs_len and not self.will_close:
            self.close_when_flushed = False
            self.lingers_until = time.time() + LINGER_S
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            return
        super().handle_write()

    def handle_read(self) -> None:
        if self.lingers_until is None:
            super().handle_read()
            return
        try:
            data = self.recv(self.adj.recv_bytes)
        except OSError:
            data = b""
        if not data or time.time() > self.lingers_until:
            self.handle_close()

    def give_up(self, error: Error) -> None:
        """Answer a request that has not arrived whole, after those before it, and close."""
        with self.requests_lock:
            request, self.request = self.request, None
            if request is None:
                self.will_close = True
                return
            if not request.headers_finished:
                request.parse_header(b"GET / HTTP/1.0\r\n")  # what an answer asks the request for
                request.command = request.path = ""
            request.error, request.completed = error, True
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    def is_late(self, now: float, limit_s: float) -> bool:
        """Whether a request takes too long to arrive. Behind one that is being answered, nothing is read."""
        request = self.request
        return (
            request is not None and not (self.requests or request.is_blank) and now - request.began > limit_s
        )


class _Server(TcpWSGIServer):
    channel_class = _Channel
    upload_timeout_s = 120.0
    max_upload_mb = 32.0
    at_once: Collection[str] = ()
    cors_origins: Collection[str] = ()
    on_refused: Callable[[Refusal], None]
    loop_thread: int | None = None

    def add_task(self, channel: _Channel) -> None:
        """Have the first request of a channel answered. Its lock may be held."""
        request = channel.requests[0]
        is_quick = request.error is None and request.path in self.at_once
        if is_quick and threading.get_ident() == self.loop_thread:
            channel.is_urgent = True  # once the lock is free
        else:
            super().add_task(channel)

    def answer(self, channel: _Channel) -> None:
        """Answer a quick request in the loop; with others behind it, it waits in line as they do."""
        if len(channel.requests) == 1:
            channel.service()
        else:
            super().add_task(channel)

    def handle_accept(self) -> None:
        """Let in all who wait. waitress lets in one, then serves all connections, then lets in another."""
        for _ in range(BACKLOG):
            before = len(self._map)
            super().handle_accept()
            if len(self._map) == before or len(self._map) >= self.adj.connection_limit:
                return

    def run(self) -> None:
        self.loop_thread = threading.get_ident()
        super().run()

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.lingers_until is not None and now > channel.lingers_until:
                channel.will_close = True
            elif channel.is_late(now, self.upload_timeout_s):
                channel.give_up(_TooSlow(""))


class WaitressLoop:
    """waitress on a listening socket, in a thread of its own."""

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        *,
        threads: int,
        max_upload_mb: float,
        upload_timeout_s: float,
        at_once: Collection[str] = (),
        cors_origins: Collection[str] = (),
        on_refused: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        """Take over `listener`, bound and not yet listening; `start()` serves.

        Args:
            max_upload_mb: the application's limit, in millions of bytes; it answers itself what is a little larger.
            upload_timeout_s: seconds in which a request must have arrived whole.
            at_once: paths that the application answers in a millisecond without waiting for anything; the loop
                answers them itself, however many requests wait for a thread.
            cors_origins: origins of pages that may read how a request was refused; "*": all.
            on_refused: told of each request that the application never sees.
        """
        adjustments = Adjustments(
            threads=threads,
            connection_limit=MOST_CONNECTIONS,
            backlog=BACKLOG,
            channel_timeout=IDLE_S,
            cleanup_interval=min(5, max(1, int(upload_timeout_s / 2))),
            max_request_body_size=int(_READ_BEYOND * max_upload_mb * 1e6),
            max_request_header_size=32_768,
            recv_bytes=_RECEIVE_BYTES,
            inbuf_overflow=_IN_MEMORY_BYTES,
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=False,  # the application believes them only where told to
            ident="Lumiply",
            sockets=[listener],
        )
        info = (listener.family, listener.type, listener.proto, listener.getsockname())
        dispatcher = TurnDispatcher()
        dispatcher.set_thread_count(threads)
        self._server = _Server(
            app, _sock=listener, dispatcher=dispatcher, adj=adjustments, sockinfo=info, bind_socket=False
        )
        self._server.at_once = at_once
        self._server.cors_origins = cors_origins
        self._server.on_refused = on_refused
        self._server.upload_timeout_s = upload_timeout_s
        self._server.max_upload_mb = max_upload_mb
        self._thread = threading.Thread(target=self._server.run, name="lumiply-server", daemon=True)

    def start(self) -> None:
        """Serve from a background thread."""
        self._thread.start()

    def stop_accepting(self) -> None:
        """Free the port; connections that are open go on."""
        closed = threading.Event()

        def close() -> None:
            self._server.accepting = False
            wasyncore.dispatcher.close(self._server)
            closed.set()

        self._server.trigger.pull_trigger(close)
        closed.wait(5)

    def finish(self, timeout: float) -> bool:
        """Let answers under way be sent, for `timeout` seconds, then close everything. Whether all were sent."""
        deadline = time.monotonic() + timeout
        while (busy := self._is_busy()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._server.trigger.pull_trigger(self._close_connections)
        self._thread.join(5)
        self._server.task_dispatcher.shutdown(timeout=1)
        self._server.trigger.close()
        return not busy

    def _close_connections(self) -> None:
        """In the loop, which ends when there are none. Its trigger stays open: a thread may be about to pull it, this
        close included, which another pull has brought about, and would write into whatever has the number then."""
        for each in list(self._server._map.values()):
            if each is not self._server.trigger:
                with contextlib.suppress(Exception):
                    each.close()
        self._server._map.clear()

    def _is_busy(self) -> bool:
        channels: list[Any] = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
