"""Adaptors that are exchanged while the server runs: no picture is taken for one of another light."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask import Flask

from lumiply.engine.protocol import EngineInfo, Progress
from lumiply.server import EngineSlot
from lumiply.server.names import RECORD_NAME
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import INFO, FakeEngine, photo_bytes, wait_until
from tests.server.conftest import later, post

NEW = replace(INFO, fingerprint="fake-2")


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def weights_of(settings: Settings) -> Callable[[str], str]:
    """The weights that a job's pictures are said to be of."""

    def read(job_id: str) -> str:
        return json.loads((settings.results_dir / job_id / RECORD_NAME).read_text())["recipe"]["engine"]

    return read


def test_a_photo_rendered_before_is_rendered_again_in_the_new_light(
    make_app: Callable[..., Flask], engine: FakeEngine, weights_of: Callable[[str], str]
) -> None:
    client = make_app(engine).test_client()
    assert post(client).status_code == 200
    engine.info = NEW
    assert post(client).status_code == 200
    assert (len(engine.renders), weights_of("job-1")) == (2, "fake-2")


def test_a_colour_that_has_arrived_is_rendered_beside_the_others(make_app: Callable[..., Flask]) -> None:
    engine = FakeEngine(colors=("white", "red"))
    client = make_app(engine).test_client()
    assert post(client).status_code == 200
    engine.info = NEW
    assert post(client, image=photo_bytes(30)).status_code == 200
    assert [render.colors for render in engine.renders] == [("white", "red"), INFO.colors]


@pytest.mark.parametrize("begun", [True, False])
def test_renders_that_have_begun_keep_the_old_light_and_those_that_wait_get_the_new(
    make_app: Callable[..., Flask], pool: ThreadPoolExecutor, weights_of: Callable[[str], str], begun: bool
) -> None:
    manual = FakeEngine(manual=True, colors=("red", "blue"))
    app = make_app(manual)
    answers = [later(pool, app, job_id=job, image=photo_bytes(red)) for red, job in enumerate("abc", 10)]
    if begun:
        wait_until(lambda: len(manual.renders) == 2)
        for render in manual.renders:
            assert render.progress is not None
            render.progress(Progress("prepare", 0, 1))
    manual.wait_for(2)
    wait_until(lambda: site_of(app).queue.length == 3)
    manual.info = replace(NEW, colors=("red",))  # blue, which nobody asked for, has gone
    manual.manual = False
    for render in manual.renders[:2]:
        render.finish()
    assert [answer.result(10).status_code for answer in answers] == [200] * 3
    kept = sorted(map(weights_of, "abc"))
    assert kept == (["fake-1", "fake-1", "fake-2"] if begun else ["fake-2"] * 3)
    assert all(render.colors == ("red",) for render in manual.renders[2:])


def test_an_engine_that_had_to_be_replaced_may_come_back_with_other_weights(
    make_app: Callable[..., Flask],
    settings: Settings,
    pool: ThreadPoolExecutor,
    weights_of: Callable[[str], str],
) -> None:
    dead = FakeEngine(manual=True)
    app = make_app(EngineSlot(dead, build=lambda: FakeEngine(info=NEW)), settings)
    answer = later(pool, app)
    dead.wait_for(1)
    dead.alive = False
    assert answer.result(10).status_code == 200
    assert weights_of("job-1") == "fake-2"


def test_what_an_engine_said_last_holds_until_there_is_another() -> None:
    engine = FakeEngine()
    slot = EngineSlot(engine, build=lambda: FakeEngine(info=NEW))
    changed: EngineInfo = replace(INFO, weights="Others.")
    engine.info = changed
    slot.load = lambda build: None  # type: ignore[assignment, method-assign, return-value]
    slot.restart(engine, "stuck")
    assert slot.engine is None and slot.info() is changed
    slot.put(FakeEngine(info=NEW))
    assert slot.info().fingerprint == "fake-2"
