from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumiply.server import create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(results_dir=tmp_path / "inference", port=0, request_timeout_s=10)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def make_app(settings: Settings) -> Iterator[Callable[..., Flask]]:
    """Builds applications and closes them when the test ends."""
    made: list[Flask] = []

    def build(engine: Any, changed: Settings | None = None, **parts: Any) -> Flask:
        made.append(create_app(changed or settings, engine, **parts))
        return made[-1]

    yield build
    for app in made:
        site_of(app).close(0)


@pytest.fixture
def app(make_app: Callable[..., Flask], engine: FakeEngine) -> Flask:
    return make_app(engine)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def later(pool: ThreadPoolExecutor, app: Flask, **fields: object) -> Future[TestResponse]:
    """`post` from another thread."""
    return pool.submit(lambda: post(app.test_client(), **fields))


def post(client: FlaskClient, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    """`POST /process` with a good form, changed by `fields`; None leaves a field out."""
    form = {"image": photo_bytes(), "job_id": "job-1", "callback_url": "", "color": "red", **fields}
    if isinstance(form["image"], bytes):
        form["image"] = (BytesIO(form["image"]), "3f_room_with_lights.png", "image/png")
    data = {name: value for name, value in form.items() if value is not None}
    return client.post("/process", data=data, content_type="multipart/form-data", headers=headers)
