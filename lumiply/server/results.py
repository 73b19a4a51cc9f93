"""The results as static files: `/static/inference/<job_id>/<name>` for the public names, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from werkzeug.middleware.shared_data import SharedDataMiddleware

from lumiply.errors import InvalidJobIdError
from lumiply.server.store import PUBLIC_NAMES, require_job_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Where the results stand; part of the HTTP contract, and of URLs that clients keep.
RESULTS_PATH: Final = "/static/inference"

_Opener = Callable[[], tuple[IO[bytes], datetime, int]]

_EXTRA_HEADERS: Final = [("Access-Control-Allow-Origin", "*"), ("X-Content-Type-Options", "nosniff")]


class ResultFiles(SharedDataMiddleware):
    """Serves the public files of a `JobStore`; every other request goes on to the application.

    A browser keeps a file and asks each time whether it changed (max-age 0 with an ETag: a 304 costs no
    bytes), because a new photo under the same job id changes what stands at a URL.
    """

    def __init__(self, app: WSGIApplication, root: Path) -> None:
        super().__init__(app, {RESULTS_PATH: str(root.absolute())}, cache=True, cache_timeout=0)

    def get_directory_loader(
        self, directory: str
    ) -> Callable[[str | None], tuple[str | None, _Opener | None]]:
        def loader(path: str | None) -> tuple[str | None, _Opener | None]:
            job_id, _, name = (path or "").partition("/")
            try:
                require_job_id(job_id)
            except InvalidJobIdError:
                return None, None
            if name not in PUBLIC_NAMES:
                return None, None
            file = os.path.join(directory, job_id, name)
            return (name, _opener(file)) if os.path.isfile(file) else (None, None)

        return loader

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return self.app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if any(name == "Etag" for name, _ in headers):  # ours, not the application's
                headers = [pair for pair in headers if pair[0] != "Date"] + _EXTRA_HEADERS  # the server dates
            return start_response(status, headers, exc_info)

        try:
            body = super().__call__(environ, start)
        except FileNotFoundError:  # removed between look-up and opening
            return self.app(environ, start_response)
        if environ["REQUEST_METHOD"] == "HEAD":
            getattr(body, "close", lambda: None)()
            return []
        return body


def _opener(file: str) -> _Opener:
    """Opens a file, with the time and size of what was opened, even if it is replaced meanwhile."""

    def opener() -> tuple[IO[bytes], datetime, int]:
        stream = open(file, "rb")  # noqa: SIM115 - the WSGI server closes it
        status = os.fstat(stream.fileno())
        return stream, datetime.fromtimestamp(status.st_mtime, tz=timezone.utc), status.st_size

    return opener
