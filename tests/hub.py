"""A small Hugging Face hub on localhost: model information, redirects to the bytes, ranges, conditions, faults."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A repository.

    Attributes:
        files: bytes by path; those of 20 bytes or more count as large files (LFS).
        gated: who may read it accepted its conditions.
        readers: tokens of those who did.
    """

    files: dict[str, bytes]
    gated: bool = False
    readers: tuple[str, ...] = ()


@dataclass
class FakeHub:
    """Serves `repos` until closed.

    Attributes:
        tokens: those it knows.
        gets: (path, Range header, Authorization header) of each download of bytes.
        cut: a body stops after so many bytes, and nothing more comes; `half_sent` is set then.
        forge: bytes sent in place of a file's own.
    """

    repos: dict[str, Repo]
    tokens: tuple[str, ...] = ("hf_good", "hf_other")
    gets: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    cut: int | None = None
    half_sent: threading.Event = field(default_factory=threading.Event)
    forge: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> FakeHub:
        hub = self
        self._released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *args: None  # type: ignore[method-assign]  # clients are killed here
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._info(request, "/".join(parts[2:4]))
        elif parts[0] == "bytes":
            self._bytes(request, "/".join(parts[1:3]), "/".join(parts[3:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve(request, "/".join(parts[:2]), "/".join(parts[4:]))
        else:
            _end(request, 404)

    def _info(self, request: BaseHTTPRequestHandler, name: str) -> None:
        token = _token(request)
        if token is not None and token not in self.tokens:
            return _end(request, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if name not in self.repos:
            return _end(request, 401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
        siblings = []
        for path, data in self.repos[name].files.items():
            entry = {"rfilename": path, "size": len(data), "blobId": _git_digest(data)}
            if len(data) >= 20:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        body = json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}).encode()
        return _end(request, 200, {"Content-Type": "application/json"}, body)

    def _resolve(self, request: BaseHTTPRequestHandler, name: str, path: str) -> None:
        repo, token = self.repos[name], _token(request)
        if repo.gated and token not in repo.readers:
            return _end(request, 401 if token is None else 403, {"X-Error-Code": "GatedRepo"})
        if path not in repo.files:
            return _end(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        data = repo.files[path]
        digest = hashlib.sha256(data).hexdigest() if len(data) >= 20 else _git_digest(data)
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"http://localhost:{self._server.server_port}/bytes/{name}/{path}",
        }
        return _end(request, 302, headers)

    def _bytes(self, request: BaseHTTPRequestHandler, name: str, path: str) -> None:
        asked = request.headers.get("Range")
        self.gets.append((path, asked, request.headers.get("Authorization")))
        data = self.forge.get(path, self.repos[name].files[path])
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        request.send_response(206 if asked else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if self.cut is None:
            request.wfile.write(data[start:])
            return
        request.wfile.write(data[start : self.cut])
        request.wfile.flush()
        self.half_sent.set()
        self._released.wait()
        request.close_connection = True


def _end(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None, body: bytes = b""
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _token(request: BaseHTTPRequestHandler) -> str | None:
    header: str | None = request.headers.get("Authorization")
    return header.removeprefix("Bearer ") if header else None


def _git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
