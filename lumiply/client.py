"""Calling a Lumiply server the way the gateway does, with the standard library only."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from lumiply.errors import RemoteError

#: The gateway's own limit.
TIMEOUT_S: Final = 300.0

_HEADERS: Final = {"ngrok-skip-browser-warning": "true", "User-Agent": "Lumiply-Client"}


def process(
    url: str, photo: Path, job_id: str, color: str, timeout: float = TIMEOUT_S, token: str | None = None
) -> dict[str, Any]:
    """Ask for a photo in one colour.

    Args:
        url: the server's address, without `/process`.
        photo: file to send.
        job_id: name of the job; one photo each.
        color: one of the seven.
        timeout: seconds without an answer.
        token: what the server asks for, if it asks for one.

    Returns:
        The JSON of the answer, as the HTTP contract describes it.

    Raises:
        RemoteError: the server refused, failed, or did not answer.
        OSError: the photo cannot be read.
    """
    fields = {"job_id": job_id, "callback_url": "", "color": color}
    content_type, body = encode_form(fields, "image", photo.name, photo.read_bytes())
    headers = {**_HEADERS, **_bearer(token), "Content-Type": content_type}
    request = urllib.request.Request(f"{url}/process", data=body, headers=headers, method="POST")
    answer = json.loads(_send(request, timeout))
    if not isinstance(answer, dict):
        raise RemoteError(
            f"{url}/process answered with something else than an object. Is it a Lumiply server?"
        )
    return answer


def fetch(url: str, timeout: float = 30.0) -> bytes:
    """Download a result.

    Raises:
        RemoteError: it is not there, or the server did not answer.
    """
    return _send(urllib.request.Request(url, headers=_HEADERS), timeout)


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


def _send(request: urllib.request.Request, timeout: float) -> bytes:
    direct = [urllib.request.ProxyHandler({})] if _is_local(request.full_url) else []
    try:
        with urllib.request.build_opener(*direct).open(request, timeout=timeout) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as exc:
        with exc:
            raise RemoteError(f"{request.full_url} answered {exc.code}: {_sentence(exc.read())}") from exc
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise RemoteError(f"{request.full_url} did not answer: {reason}. Does the server run?") from exc


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _sentence(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
