"""What stands between a browser and a server in these tests: records, errors, hang-ups, doors, jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from lumiply.colors import COLORS


class Recorder:
    """Keeps the bodies of `POST /process`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def around(self, app: Any) -> Any:
        def wrapped(environ: Any, start: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/process":
                body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                self.bodies.append(body)
                environ["wsgi.input"] = BytesIO(body)
            return app(environ, start)

        return wrapped


class Failing:
    """Answers some paths with an error, the first `times` times."""

    def __init__(self, answers: dict[str, tuple[str, bytes]], times: int) -> None:
        self.answers, self.times = answers, times

    def around(self, app: Any) -> Any:
        def wrapped(environ: Any, start: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] in self.answers and self.times > 0:
                self.times -= 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                status, body = self.answers[environ["PATH_INFO"]]
                start(status, [("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
                return [body]
            return app(environ, start)

        return wrapped


class Unreachable:
    """While `closed`, hangs up on everybody."""

    def __init__(self) -> None:
        self.closed = False

    def around(self, app: Any) -> Any:
        def wrapped(environ: Any, start: Any) -> Iterable[bytes]:
            if not self.closed:
                return app(environ, start)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("200 OK", [("Content-Type", "application/json"), ("Content-Length", "9")])
            return [b""]  # and no nine bytes ever

        return wrapped


class Guard:
    """Lets only those with the token at `/process`."""

    def __init__(self, token: str) -> None:
        self.token = token

    def around(self, app: Any) -> Any:
        def wrapped(environ: Any, start: Any) -> Iterable[bytes]:
            allowed = environ.get("HTTP_AUTHORIZATION") == f"Bearer {self.token}"
            if environ["PATH_INFO"] == "/process" and not allowed:
                environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                return _json(
                    start, "401 Unauthorized", {"success": False, "error": "토큰", "code": "unauthorized"}
                )
            return app(environ, start)

        return wrapped


class Jobs:
    """Answers `/jobs/<id>` with what the test says."""

    def __init__(self) -> None:
        self.state, self.place, self.done = "queued", 0, 4

    def around(self, app: Any) -> Any:
        def wrapped(environ: Any, start: Any) -> Iterable[bytes]:
            if not environ["PATH_INFO"].startswith("/jobs/"):
                return app(environ, start)
            job_id = environ["PATH_INFO"].removeprefix("/jobs/")
            done = self.state == "completed"
            answer = {
                "job_id": job_id,
                "state": self.state,
                "queue_place": self.place,
                "colors": {
                    color: {
                        "state": self.state,
                        "steps_done": self.done,
                        "steps": 10,
                        "image_url": f"https://elsewhere/static/inference/{job_id}/output_{color}.jpg"
                        if done
                        else None,
                        "error": None,
                    }
                    for color in COLORS
                },
            }
            return _json(start, "200 OK", answer)

        return wrapped


def _json(start: Any, status: str, answer: dict[str, Any]) -> list[bytes]:
    body = json.dumps(answer).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
