"""Requests that come before the model is loaded: they wait for it, within their time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from lumiply.errors import WeightsError
from lumiply.server import EngineSlot
from lumiply.server.service import Service
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes, wait_until
from tests.server.conftest import later, post
from tests.server.gateway import COLORS, Gateway


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def waiting(app: Flask) -> int:
    """Requests that wait in `app`, for whatever it is."""
    settings = site_of(app).settings
    return settings.waiting_requests - site_of(app).jobs._seats._value


def test_gateways_that_come_while_the_model_loads_get_all_their_pictures(
    settings: Settings, pool: ThreadPoolExecutor
) -> None:
    may_load, engine = threading.Event(), FakeEngine()

    def build() -> FakeEngine:
        assert may_load.wait(10)
        return engine

    slot = EngineSlot()
    with Service(settings, slot) as service:
        slot.load(build)
        gateway = Gateway(service.webhook_url)
        both = [pool.submit(gateway.run, photo_bytes(red)) for red in (10, 20)]
        wait_until(lambda: waiting(service._server._app) == 2)
        assert gateway.test_connection()["engine"] == "loading"
        may_load.set()
        for run in both:
            assert set(run.result(10)) == {*COLORS, "input"}
    assert len(engine.renders) == 2


def test_a_model_that_takes_longer_to_load_than_a_request_may_wait_is_503_loading(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    slot = EngineSlot()
    answer = post(make_app(slot, settings.replace(request_timeout_s=0.05)).test_client())
    assert (answer.status_code, answer.json["code"]) == (503, "loading")
    assert int(answer.headers["Retry-After"]) > 0
    slot.put(FakeEngine())
    assert post(make_app(slot).test_client()).status_code == 200


def test_a_model_that_fails_to_load_is_503_unavailable_for_those_who_wait_and_who_come(
    make_app: Callable[..., Flask], pool: ThreadPoolExecutor
) -> None:
    may_fail, slot = threading.Event(), EngineSlot()

    def build() -> FakeEngine:
        assert may_fail.wait(10)
        raise WeightsError("secret path")

    app = make_app(slot)
    slot.load(build)
    answer = later(pool, app)
    wait_until(lambda: waiting(app) == 1)
    may_fail.set()
    for found in (answer.result(5), post(app.test_client())):
        assert (found.status_code, found.json["code"]) == (503, "unavailable")
        assert "secret" not in found.text


def test_a_server_that_stops_while_the_model_loads_answers_those_who_wait_at_once(
    make_app: Callable[..., Flask], pool: ThreadPoolExecutor
) -> None:
    app = make_app(EngineSlot())
    answer = later(pool, app)
    wait_until(lambda: waiting(app) == 1)
    began = time.monotonic()
    site_of(app).close(5)
    found = answer.result(5)
    assert (found.status_code, found.json["code"]) == (503, "unavailable")
    assert time.monotonic() - began < 3


def test_those_who_wait_for_the_model_leave_threads_to_others(
    make_app: Callable[..., Flask], settings: Settings, pool: ThreadPoolExecutor
) -> None:
    slot = EngineSlot()
    app = make_app(slot, settings.replace(threads=8))
    seats = settings.replace(threads=8).waiting_requests
    answers = [later(pool, app, job_id=f"job-{number}") for number in range(seats)]
    wait_until(lambda: waiting(app) == seats)
    refused = post(app.test_client(), job_id="one-more")
    assert (refused.status_code, refused.json["code"]) == (503, "busy")
    slot.put(FakeEngine())
    assert [answer.result(10).status_code for answer in answers] == [200] * seats


def test_a_bad_form_is_refused_without_waiting_for_the_model(make_app: Callable[..., Flask]) -> None:
    answer = post(make_app(EngineSlot()).test_client(), color="pink")
    assert (answer.status_code, answer.json["code"]) == (400, "unknown_color")
