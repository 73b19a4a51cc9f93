"""A Flask application served from a background thread, as a notebook needs it."""

from __future__ import annotations

import functools
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from lumiply.errors import AddressError
from lumiply.server.access import note_refusal
from lumiply.server.site import find_site
from lumiply.server.status_views import AT_ONCE
from lumiply.server.wsgi import BACKLOG, WaitressLoop
from lumiply.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

#: Seconds that answers under way are given when no other number is.
SHUTDOWN_S: Final = 5.0


class FlaskServerThread:
    """Serves an application with waitress until `shutdown()`.

    Args:
        app: a Flask application, or any WSGI one.
        host: the address to listen on.
        port: 0 takes a free one; see `port` and `url` after `start()`.
    """

    def __init__(self, app: WSGIApplication, host: str = "127.0.0.1", port: int = 5000) -> None:
        self._app = app
        self._site = find_site(app)
        self._settings = self._site.settings if self._site is not None else Settings()
        self._lock = threading.Lock()
        self._loop: WaitressLoop | None = None
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
        return self._loop is not None

    def start(self) -> FlaskServerThread:
        """Listen, and return once connections are accepted. Starting a running server changes nothing.

        Raises:
            AddressError: the port is in use, or the address is not this machine's.
        """
        with self._lock:
            if self._loop is not None:
                return self
            listener = _listen(self.host, self.port)
            if self._site is not None:
                self._site.open()  # which takes long where there are many results
            self.port = listener.getsockname()[1]
            self._loop = WaitressLoop(
                self._app,
                listener,
                threads=self._settings.threads,
                max_upload_mb=self._settings.max_upload_mb,
                upload_timeout_s=self._settings.upload_timeout_s,
                **self._ours(),
            )
            self._loop.start()
        log.info("listening on %s", self.url)
        return self

    def _ours(self) -> dict[str, Any]:
        """What is known of our own application, and of no other."""
        if self._site is None:
            return {}
        return {
            "at_once": AT_ONCE,
            "cors_origins": self._settings.cors_origins,
            "on_refused": functools.partial(note_refusal, self._site),
        }

    def stop_accepting(self) -> None:
        """Free the port; requests under way go on. Safe to call twice, and before `shutdown`."""
        with self._lock:
            if self._loop is not None:
                self._loop.stop_accepting()

    def shutdown(self, timeout: float = SHUTDOWN_S) -> None:
        """Stop accepting, give answers under way `timeout` seconds, then close. Safe to call twice."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop_accepting()
            if not loop.finish(timeout):
                log.warning("some answers were not sent within %g s", timeout)
            log.info("stopped listening on %s", self.url)

    def __enter__(self) -> FlaskServerThread:
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.shutdown()


def reason(exc: OSError) -> str:
    """Why an address could not be had, without the address, which some versions of Python tell as well."""
    return (exc.strerror or str(exc)).partition(" (while attempting")[0]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise AddressError(
            f"Cannot listen on {host} port {port}: {reason(exc)}. Stop the program that uses it, or choose"
            " another with --port or LUMIPLY_PORT (0 takes any free one)."
        ) from exc
