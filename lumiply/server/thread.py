"""A Flask application served from a background thread, as a notebook needs it."""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from lumiply.errors import AddressError
from lumiply.server.answers import error_body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)
access_log = logging.getLogger("lumiply.access")

#: Connections that wait for `accept`.
BACKLOG: Final = 128


class _Handler(WSGIRequestHandler):
    """Logs through `lumiply.access`, without query strings, which may carry secrets."""

    timeout = 60  # seconds without a byte on a connection, either way

    def version_string(self) -> str:
        return "Lumiply"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not even HTTP, as JSON like every other error."""
        body = json.dumps(error_body(f"HTTP 요청 형식이 올바르지 않습니다 ({int(code)}).", "bad_request"))
        self.close_connection = True
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        path = getattr(self, "path", "-").partition("?")[0]
        access_log.info("%s %r %s", getattr(self, "command", "-"), path, str(code))

    def log(self, type: str, message: str, *args: Any) -> None:
        access_log.log(logging.ERROR if type == "error" else logging.INFO, message, *args)


class FlaskServerThread:
    """Serves an application until `shutdown()`. One thread a connection.

    Args:
        app: a Flask application, or any WSGI one.
        host: the address to listen on.
        port: 0 takes a free one; see `port` and `url` after `start()`.
    """

    def __init__(self, app: WSGIApplication, host: str = "127.0.0.1", port: int = 5000) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """Address for a client on this machine, without a slash at its end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def start(self) -> FlaskServerThread:
        """Listen, and return once connections are accepted. Starting a running server changes nothing.

        Raises:
            AddressError: the port is in use, or the address is not this machine's.
        """
        with self._lock:
            if self._server is not None:
                return self
            listener = _listen(self.host, self.port)
            try:
                self.port = listener.getsockname()[1]
                server = make_server(
                    self.host,
                    self.port,
                    self._app,
                    threaded=True,
                    request_handler=_Handler,
                    fd=listener.fileno(),
                )
            finally:
                listener.close()  # the server holds a duplicate
            self._thread = threading.Thread(
                target=server.serve_forever,
                kwargs={"poll_interval": 0.05},
                name="lumiply-server",
                daemon=True,
            )
            self._server = server
            self._thread.start()
        log.info("listening on %s", self.url)
        return self

    def shutdown(self) -> None:
        """Stop accepting and free the port; requests under way go on in their threads. Safe to call twice."""
        with self._lock:
            server, thread = self._server, self._thread
            self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            log.info("stopped listening on %s", self.url)

    def __enter__(self) -> FlaskServerThread:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise AddressError(
            f"Cannot listen on {host} port {port}: {exc.strerror or exc}. Stop the program that uses it, or choose"
            " another with --port or LUMIPLY_PORT (0 takes any free one)."
        ) from exc
