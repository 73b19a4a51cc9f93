"""What goes to a server and what comes back, with the standard library: a form, a time limit, a refusal in words."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from lumiply.errors import RemoteError
from lumiply.refusals import in_english


def encode_form(fields: Mapping[str, str], part: str, filename: str, data: bytes) -> tuple[str, bytes]:
    """(content type, body) of a multipart form with one file."""
    boundary = f"lumiply-{secrets.token_hex(16)}"
    safe_name = filename.replace("\\", "_").replace('"', "_").replace("\r", "_").replace("\n", "_")
    chunks = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    chunks += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"; filename="{safe_name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode(),
        data,
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return f"multipart/form-data; boundary={boundary}", b"".join(chunks)


class _KeepToken(urllib.request.HTTPRedirectHandler):
    """Follows a redirect, but does not bring the token to another host, nor in clear to where it was kept secret."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        safe = there.netloc == here.netloc and there.scheme in (here.scheme, "https")
        if followed is not None and not safe:
            followed.remove_header("Authorization")
        return followed


def send(request: urllib.request.Request, timeout: float) -> bytes:
    """The body of the answer, all of it within `timeout` seconds.

    Raises:
        RemoteError: the server refused, failed, or did not answer in time.
    """
    direct = [urllib.request.ProxyHandler({})] if _is_local(request.full_url) else []
    deadline = time.monotonic() + timeout
    try:
        with urllib.request.build_opener(_KeepToken, *direct).open(request, timeout=timeout) as response:
            return _body(response, deadline)
    except urllib.error.HTTPError as exc:
        with exc:
            try:
                body = _body(exc.fp, deadline)
            except (OSError, http.client.HTTPException):  # its status says enough
                body = b""
        code, sentence, own = _refusal(body)
        after = exc.headers.get("Retry-After", "")
        raise RemoteError(
            f"{request.full_url} answered {exc.code}{f' ({code})' if code else ''}: {sentence}",
            exc.code,
            code,
            float(after) if after.isdigit() else None,
            own,
        ) from exc
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        if isinstance(reason, TimeoutError):
            raise RemoteError(
                f"{request.full_url} timed out: no answer in {timeout:.3g} s. Give more with timeout=; the same call"
                " again takes up what the server has rendered meanwhile."
            ) from exc
        raise RemoteError(f"{request.full_url} did not answer: {reason}. Does the server run?") from exc
    except http.client.HTTPException as exc:  # no HTTP, or cut off in the middle
        raise RemoteError(
            f"{request.full_url} did not answer as a web server does: {exc or type(exc).__name__}. Check the address."
        ) from exc
    except ValueError:  # of the host's name or a header; its text may quote the token
        raise RemoteError(
            f"{request.full_url} cannot be asked: the address or the token holds what HTTP cannot carry. Check both."
        ) from None


def _body(response: Any, deadline: float) -> bytes:
    """All of an answer.

    Raises:
        OSError: it did not come whole, or not in time.
        http.client.HTTPException: it is no HTTP.
    """
    pieces = []
    while piece := response.read1(2**16):  # a read alone would take the time limit for each of its parts
        pieces.append(piece)
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise ConnectionError(f"the answer broke off, {response.length} bytes short")
    return b"".join(pieces)


def bearer(token: str | None) -> dict[str, str]:
    """The header that carries the token, if there is one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _refusal(body: bytes) -> tuple[str | None, str, str | None]:
    """(code, sentence, the server's own sentence) of an error's body."""
    try:
        answer = json.loads(body)
        code, own = str(answer["code"]), str(answer["error"])
        english = in_english(code, _figures(answer.get("figures")))
        return code, f"{english} ({own})" if english else own, own
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    text = body.decode(errors="replace").strip()
    if found := re.search(r"ERR_NGROK_\d+", text):
        sentence = (
            "no Lumiply server stands behind this ngrok address. Its notebook or computer has stopped: run it again,"
            " and take the address that it prints."
        )
        return found[0], sentence, None
    if text.startswith("<"):
        return None, "a web page, not a Lumiply server's answer. Check the address.", None
    return None, text[:200] or "no more than that", None


def _figures(told: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in told.items()} if isinstance(told, dict) else {}
