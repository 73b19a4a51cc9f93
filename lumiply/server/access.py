"""One log line and one count a request: which, whose, how it ended, how long it took. No tokens, no queries."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

from flask import Flask, Response, g, request

from lumiply.server.site import Site, site_of
from lumiply.server.wsgi import Refusal

log = logging.getLogger("lumiply.access")


def install_access_log(app: Flask) -> None:
    """Log and count every request of `app`."""

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.get("began", time.perf_counter())
        endpoint = (request.endpoint or "none").rpartition(".")[2]
        metrics = site_of(app).metrics
        metrics.requests.labels(endpoint, _method(request.method), response.status_code).inc()
        metrics.request_seconds.labels(endpoint).observe(seconds)
        sent = request.method != "HEAD" and response.status_code not in (204, 304)
        _write(
            method=request.method,
            path=request.path[:200],
            status=response.status_code,
            ms=round(seconds * 1000, 1),
            bytes=response.content_length if sent else 0,
            job=g.get("job_id"),
            colors=g.get("colors"),
            code=g.get("error_code"),
            remote=request.remote_addr,
        )
        return response


def note_refusal(site: Site, refusal: Refusal) -> None:
    """Log and count a request that never reached the application."""
    site.metrics.requests.labels("none", _method(refusal.method), refusal.status).inc()
    _write(
        method=refusal.method or None,
        path=refusal.path[:200] or None,
        status=refusal.status,
        code=refusal.code,
        remote=refusal.remote,
    )


def _write(*, remote: str | None, **fields: Any) -> None:
    fields = {name: value for name, value in {**fields, "from": remote}.items() if value is not None}
    log.info(logfmt(fields), extra={"fields": fields})


def logfmt(fields: dict[str, Any]) -> str:
    """`name=value name="value with spaces"`, on one line whatever the values hold."""
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    text = str(value)
    return text if re.fullmatch(r"[!#-<>-~]+", text, re.ASCII) else json.dumps(text)


def _method(name: str) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
    return name if name in known else "other"
