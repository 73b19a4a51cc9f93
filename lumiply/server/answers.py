"""Every error as JSON: `{"success": false, "error": sentence, "code": identifier}`.

The sentence is for a person; it never is the text of an exception that nobody foresaw. Where it fills in a value or a
limit, these stand under `figures` as well, for a page or a program that says it in another language.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any, Final

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

from lumiply.errors import LumiplyError, StorageFullError, StorageUnavailableError
from lumiply.server.sentences import INTERNAL, sentence_of

log = logging.getLogger(__name__)

#: Seconds after which a client told "not now" may ask again.
RETRY_AFTER_S: Final = 10

#: Codes and sentences of errors that Flask and Werkzeug raise; others get a general one.
_HTTP_ERRORS: Final[dict[int, tuple[str, str]]] = {
    400: ("bad_request", "잘못된 요청입니다. 주소와 형식을 확인해 주세요."),
    404: ("not_found", "요청한 주소를 찾을 수 없습니다."),
    405: ("method_not_allowed", "이 주소에서 지원하지 않는 HTTP 메서드입니다."),
    408: ("request_timeout", "업로드가 제시간에 끝나지 않았습니다. 다시 보내 주세요."),
    416: ("range_not_satisfiable", "요청한 범위가 파일의 크기를 벗어납니다."),
    413: (
        "upload_too_large",
        "업로드가 너무 큽니다 (한도 {limit}MB). 더 작은 파일로 다시 보내 주세요.",
    ),
}


def error_body(sentence: str, code: str, figures: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON of an error; with `figures` if there are any."""
    body: dict[str, Any] = {"success": False, "error": sentence, "code": code}
    return body | {"figures": dict(figures)} if figures else body


def install_error_handlers(app: Flask, max_upload_mb: float) -> None:
    """Answer every error of `app` as JSON."""

    @app.errorhandler(LumiplyError)
    def expected(error: LumiplyError) -> Response:
        if error.status == 500:
            log.error("request failed: %s", error, exc_info=error)
        elif isinstance(error, StorageUnavailableError):
            log.error("%s", error)  # the operator's to mend
        response = _answer(error.status, sentence_of(error), error.code, error.figures)
        if error.status == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.errorhandler(OSError)
    def disk(error: OSError) -> Response:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            log.error("no space: %s", error)
            return expected(StorageFullError())
        return unexpected(error)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        status = error.code or 500
        code, sentence = _HTTP_ERRORS.get(
            status, ("http_error", f"요청을 처리할 수 없습니다 (HTTP {status}).")
        )
        figures = {"limit": f"{max_upload_mb:g}"} if code == "upload_too_large" else {}
        response = _answer(status, sentence.format(**figures), code, figures)
        for name, value in error.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("request failed", exc_info=error)
        return _answer(500, INTERNAL, "internal_error")


def _answer(status: int, sentence: str, code: str, figures: Mapping[str, str] | None = None) -> Response:
    g.error_code = code  # for the log
    response = jsonify(error_body(sentence, code, figures))
    response.status_code = status
    return response
