from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumiply.server import create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.cluster.conftest import REQUIRED
from tests.fakes import FakeEngine, photo_bytes

if TYPE_CHECKING:
    from tests.s3 import S3Server

#: Skips tests where the packages are not there, unless CLUSTER_TESTS=required.
needs_fsspec = pytest.mark.skipif(
    not REQUIRED and not all(importlib.util.find_spec(name) for name in ("fsspec", "s3fs", "moto")),
    reason="needs lumiply[cluster,development]",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(results_dir=tmp_path / "inference", port=0, request_timeout_s=10)


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3Server]:
    from tests.s3 import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server that this process uses."""
    for name, value in _s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield _s3_server
    _s3_server.rule = lambda request: None


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
