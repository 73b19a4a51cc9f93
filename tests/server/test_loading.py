"""Requests that come before the model is loaded: they wait for it, within their time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from flask import Flask
from PIL import Image

from lumiply.errors import WeightsError
from lumiply.images import read_photo
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


def early(app: Flask) -> int:
    """Requests that others can see waiting for the model of `app`."""
    orders = site_of(app).jobs._early._orders
    return sum(not order.called_off.done() for order in list(orders))


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


def test_a_job_that_waits_for_the_model_is_queued_in_the_order_of_coming(
    make_app: Callable[..., Flask], pool: ThreadPoolExecutor
) -> None:
    slot, engine = EngineSlot(), FakeEngine(manual=True)
    app = make_app(slot)
    client = app.test_client()
    assert client.get("/jobs/a").status_code == 404
    answers = []
    for job_id, fields in [("a", {"color": "red"}), ("a", {"color": "blue"}), ("b", {"steps": "5"})]:
        answers.append(later(pool, app, job_id=job_id, image=photo_bytes(len(job_id)), **fields))
        wait_until(lambda: waiting(app) == len(answers) == early(app))
    first, second = (client.get(f"/jobs/{job_id}").json for job_id in "ab")
    assert datetime.fromisoformat(first.pop("created")) <= datetime.fromisoformat(second["created"])
    queued = {"state": "queued", "steps_done": 0, "steps": 0, "image_url": None, "error": None}
    assert first == {
        "job_id": "a",
        "state": "queued",
        "queue_place": 1,
        "colors": {"red": queued, "blue": queued},
        "input_image_url": "http://localhost/static/inference/a/off.png",
    }
    assert (second["state"], second["queue_place"], second["colors"]["red"]["steps"]) == ("queued", 2, 5)
    slot.put(engine)
    for number in (1, 2):
        engine.wait_for(number)
    assert set(client.get("/jobs/a").json["colors"]) == set(COLORS)
    for number in (1, 2):
        engine.wait_for(number).finish()
    assert [answer.result(10).status_code for answer in answers] == [200] * 3
    assert [client.get(f"/jobs/{job_id}").json["state"] for job_id in "ab"] == ["completed"] * 2
    assert early(app) == 0


def test_deleting_a_job_that_waits_for_the_model_answers_it_at_once_and_renders_nothing(
    make_app: Callable[..., Flask], settings: Settings, pool: ThreadPoolExecutor
) -> None:
    slot, engine = EngineSlot(), FakeEngine()
    app = make_app(slot)
    asked = [later(pool, app, color=color) for color in ("red", "blue")]
    wait_until(lambda: early(app) == 2)
    other = later(pool, app, job_id="other", image=photo_bytes(9))
    wait_until(lambda: early(app) == 3)
    answer = app.test_client().delete("/jobs/job-1")
    assert (answer.status_code, answer.json["state"], answer.json["queue_place"]) == (200, "cancelled", 0)
    assert {color: entry["state"] for color, entry in answer.json["colors"].items()} == {
        "red": "cancelled",
        "blue": "cancelled",
    }
    for found in (one.result(10) for one in asked):  # and the model still loads
        assert (found.status_code, found.json["code"]) == (409, "cancelled")
    assert app.test_client().get("/jobs/job-1").status_code == 404
    assert app.test_client().get("/jobs/other").json["queue_place"] == 1
    again = later(pool, app, image=photo_bytes(7))  # under the same name
    wait_until(lambda: early(app) == 2)
    slot.put(engine)
    assert [one.result(10).status_code for one in (other, again)] == [200, 200]
    assert sorted(render.photo.getpixel((0, 0))[0] for render in engine.renders) == [7, 9]


def test_a_job_deleted_as_the_model_comes_renders_nothing_either(
    make_app: Callable[..., Flask],
    settings: Settings,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot, engine = EngineSlot(), FakeEngine()
    app = make_app(slot)
    decodes, go_on = threading.Event(), threading.Event()

    def read(upload: bytes, limit: float) -> Image.Image:
        decodes.set()
        assert go_on.wait(10)
        return read_photo(upload, limit)

    monkeypatch.setattr("lumiply.server.jobs.read_photo", read)
    answer = later(pool, app)
    wait_until(lambda: early(app) == 1)
    slot.put(engine)
    assert decodes.wait(10)  # past the wait, and not in the engine's queue yet
    assert app.test_client().get("/jobs/job-1").json["state"] == "queued"
    assert app.test_client().delete("/jobs/job-1").json["state"] == "cancelled"
    go_on.set()
    found = answer.result(10)
    assert (found.status_code, found.json["code"]) == (409, "cancelled")
    assert engine.renders == [] and not (settings.results_dir / "job-1").exists()


def test_what_a_job_has_already_stays_there_while_it_waits_unless_the_photo_is_another(
    make_app: Callable[..., Flask], settings: Settings, pool: ThreadPoolExecutor
) -> None:
    post(make_app(FakeEngine()).test_client(), color=None, colors="red")
    slot = EngineSlot()
    app = make_app(slot)
    answer = later(pool, app, color="blue")
    wait_until(lambda: early(app) == 1)
    found = app.test_client().get("/jobs/job-1").json
    assert found["state"] == "queued"
    assert {color: entry["state"] for color, entry in found["colors"].items()} == {
        "red": "completed",
        "blue": "queued",
    }
    assert app.test_client().get(found["colors"]["red"]["image_url"], buffered=True).status_code == 200
    assert site_of(app).jobs.is_active("job-1")  # so no sweep takes it away
    answers, changes = (
        [answer],
        [{"image": photo_bytes(3)}, {"seed": "7"}, {"steps": "2"}, {"preset": "fast"}],
    )
    for changed in changes:
        answers.append(later(pool, app, color="blue", **changed))
        wait_until(lambda: early(app) == len(answers))
        assert list(app.test_client().get("/jobs/job-1").json["colors"]) == ["blue"]
    app.test_client().delete("/jobs/job-1")
    assert [one.result(10).status_code for one in answers] == [409] * 5
    assert not (settings.results_dir / "job-1").exists()


def test_a_bad_form_is_refused_without_waiting_for_the_model(make_app: Callable[..., Flask]) -> None:
    answer = post(make_app(EngineSlot()).test_client(), color="pink")
    assert (answer.status_code, answer.json["code"]) == (400, "unknown_color")
