"""Calling a Lumiply server, with the standard library only.

relit = lumiply.Client("https://....ngrok-free.dev", token="...").relight("room.jpg", colors=["red", "blue"])
relit.save("relit")
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from lumiply.colors import COLORS, in_palette_order
from lumiply.errors import RemoteError, UnknownColorError
from lumiply.files import write_whole
from lumiply.refusals import in_english
from lumiply.sending import bearer, encode_form, send

#: The gateway's own limit.
TIMEOUT_S: Final = 300.0
#: Seconds between two questions about progress.
POLL_S: Final = 0.5

#: Refusals that pass by themselves: the queue is full, or the model is still loading.
_NOT_NOW: Final = ("busy", "loading")

_HEADERS: Final = {"ngrok-skip-browser-warning": "true", "User-Agent": "Lumiply-Client"}


@dataclass(frozen=True)
class ColorProgress:
    """How far one colour is: `state` as `GET /jobs` tells it, and denoising steps done of all."""

    color: str
    state: str
    steps_done: int
    steps: int


@dataclass(frozen=True)
class Relit:
    """A relit photo.

    Attributes:
        images: JPEG files by colour, in the palette's order.
        urls: their addresses on the server.
    """

    job_id: str
    images: Mapping[str, bytes]
    urls: Mapping[str, str]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `output_<color>.jpg` files into `folder`, which is made if need be; their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"output_{color}.jpg" for color in self.images]
        for path, data in zip(paths, self.images.values(), strict=True):
            write_whole(path, data)
        return paths


class Client:
    """A Lumiply server, from outside.

    Args:
        url: its address. The address with `/process` and a token, as the server prints it, will do as well.
        token: what it asks for, if it asks for one.
        timeout: seconds that a call may take.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:  # brackets that no address has
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RemoteError(f"{url!r} is no http or https address. Give the one that the server printed.")
        query = urllib.parse.parse_qs(parts.query)
        self._token = token or query.get("token", [None])[0]
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/process')}"
        self._timeout = timeout

    def relight(
        self,
        photo: str | Path,
        colors: Sequence[str] | None = None,
        *,
        job_id: str | None = None,
        seed: int | None = None,
        steps: int | None = None,
        preset: str | None = None,
        progress: Callable[[Sequence[ColorProgress]], None] | None = None,
        timeout: float | None = None,
    ) -> Relit:
        """Relight a photo and download the pictures. A server that is busy or still loading is asked again.

        Args:
            photo: file to send.
            colors: some of the seven, or one; all of them by default.
            job_id: name of the job; made up by default.
            seed, steps, preset: the server's own by default.
            progress: told every half second how far each colour is, from another thread.
            timeout: seconds for everything together; by default the client's.

        Raises:
            UnknownColorError: a colour is none of the seven.
            RemoteError: the server refused, failed, or did not answer in time. Its own sentence, if it sent one, is
                `server_sentence`.
            OSError: the photo cannot be read.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        wanted = _palette(colors)
        job_id = job_id or f"client-{secrets.token_hex(8)}"
        fields = {"job_id": job_id, "colors": ",".join(wanted)}
        options = {"seed": seed, "steps": steps, "preset": preset}
        fields |= {name: str(value) for name, value in options.items() if value is not None}
        path = Path(photo)
        with self._watched(job_id, progress):
            answer = self._ask(fields, path, deadline)
        try:
            urls = {color: str(answer["result"]["images"][color]) for color in wanted}
        except (KeyError, TypeError) as exc:
            raise RemoteError(f"{self.url}/process left a colour out. Is it a Lumiply server?") from exc
        images = {color: fetch(url, _left(deadline)) for color, url in urls.items()}
        return Relit(job_id, images, urls)

    def job(self, job_id: str) -> dict[str, Any]:
        """How far a job is, as `GET /jobs/<job_id>` tells it. Raises RemoteError."""
        return self._call("GET", f"/jobs/{urllib.parse.quote(job_id, safe='')}")

    def delete(self, job_id: str) -> dict[str, Any]:
        """End what has not finished of a job and remove its files. Raises RemoteError."""
        return self._call("DELETE", f"/jobs/{urllib.parse.quote(job_id, safe='')}")

    def health(self) -> dict[str, Any]:
        """What the server runs. Raises RemoteError."""
        return self._call("GET", "/health")

    def _ask(self, fields: Mapping[str, str], photo: Path, deadline: float) -> dict[str, Any]:
        """`POST /process`, again after "not now" for as long as the time lasts."""
        while True:
            try:
                return _post(f"{self.url}/process", fields, photo, self._token, _left(deadline))
            except RemoteError as exc:
                wait = exc.retry_after_s if exc.server_code in _NOT_NOW else None
                if wait is None or time.monotonic() + wait >= deadline:
                    raise
                time.sleep(wait)

    def _call(self, method: str, path: str) -> dict[str, Any]:
        headers = {**_HEADERS, **bearer(self._token)}
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        return _object(send(request, min(self._timeout, 30.0)), request.full_url)

    @contextlib.contextmanager
    def _watched(
        self, job_id: str, progress: Callable[[Sequence[ColorProgress]], None] | None
    ) -> Iterator[None]:
        """Tell `progress` about a job while the block runs, and once at its end."""
        if progress is None:
            yield
            return
        ended = threading.Event()

        def tell() -> None:
            with contextlib.suppress(RemoteError, KeyError, TypeError):  # not there yet; or gone
                progress(
                    [
                        ColorProgress(color, found["state"], found["steps_done"], found["steps"])
                        for color, found in self.job(job_id)["colors"].items()
                    ]
                )

        def watch() -> None:
            while not ended.wait(POLL_S):
                tell()

        thread = threading.Thread(target=watch, name="lumiply-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        tell()


def process(
    url: str, photo: Path, job_id: str, color: str, timeout: float = TIMEOUT_S, token: str | None = None
) -> dict[str, Any]:
    """Ask for a photo in one colour, as the gateway does.

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
    return _post(f"{url}/process", fields, photo, token, timeout)


def fetch(url: str, timeout: float = 30.0) -> bytes:
    """Download a result.

    Raises:
        RemoteError: it is not there, or the server did not answer.
    """
    return send(urllib.request.Request(url, headers=_HEADERS), timeout)


def _palette(colors: Sequence[str] | None) -> tuple[str, ...]:
    try:
        return in_palette_order([colors] if isinstance(colors, str) else colors or COLORS)
    except UnknownColorError as exc:
        english = in_english(exc.code, {"color": repr(exc.color)})
        raise UnknownColorError(exc.color, f"{english} ({exc})") from None


def _post(
    url: str, fields: Mapping[str, str], photo: Path, token: str | None, timeout: float
) -> dict[str, Any]:
    content_type, body = encode_form(fields, "image", photo.name, photo.read_bytes())
    headers = {**_HEADERS, **bearer(token), "Content-Type": content_type}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    return _object(send(request, timeout), url)


def _object(body: bytes, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RemoteError(f"{url} answered with something else than an object. Is it a Lumiply server?")
    return answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise RemoteError("The time limit of the call has passed. Give more with timeout=.")
    return left
