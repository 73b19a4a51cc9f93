"""One render a job: shared, kept, replaced, and never mixed."""

from __future__ import annotations

import gc
import itertools
import json
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from lumiply.colors import COLORS
from lumiply.images import encode_jpeg
from lumiply.server.names import PHOTO_NAME, RECORD_NAME, output_name
from lumiply.server.site import site_of
from lumiply.server.store import JobStore
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes, wait_until
from tests.server.conftest import later, post


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def manual() -> FakeEngine:
    return FakeEngine(manual=True)


def red_of(app: Flask, name: str, job_id: str = "job-1") -> int:
    """What a served result shows: the red channel, which `paint` takes from the photo."""
    answer = app.test_client().get(f"/static/inference/{job_id}/{name}", buffered=True)
    assert answer.status_code == 200
    return Image.open(BytesIO(answer.data)).getpixel((0, 0))[0]


def test_the_gateways_seven_calls_take_one_render(client: FlaskClient, engine: FakeEngine) -> None:
    for color in COLORS:
        answer = post(client, color=color)
        assert list(answer.json["result"]["images"]) == [color]
    assert len(engine.renders) == 1
    assert engine.renders[0].colors == COLORS


def test_seven_calls_at_once_take_one_render(
    app: Flask, engine: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    answers = [later(pool, app, color=color) for color in COLORS]
    assert [answer.result(10).status_code for answer in answers] == [200] * 7
    assert len(engine.renders) == 1


def test_pictures_of_a_job_are_encoded_side_by_side(client: FlaskClient, monkeypatch) -> None:
    begun, two = itertools.count(1), threading.Event()

    def with_another(picture: Image.Image, quality: int) -> bytes:
        if next(begun) == 2:
            two.set()
        if not two.wait(10):
            raise TimeoutError("no other picture is encoded meanwhile")
        return encode_jpeg(picture, quality)

    monkeypatch.setattr("lumiply.server.publish.encode_jpeg", with_another)
    assert post(client, color="red").status_code == 200


def test_every_colour_is_its_own_picture(client: FlaskClient, app: Flask) -> None:
    post(client, image=photo_bytes(red=90))
    for index, color in enumerate(COLORS):
        answer = client.get(f"/static/inference/job-1/{output_name(color)}", buffered=True)
        picture = Image.open(BytesIO(answer.data))
        assert picture.size == (40, 30)
        assert picture.getpixel((0, 0)) == pytest.approx((90, 30 * index, 128), abs=4)
    assert red_of(app, PHOTO_NAME) == 90


def test_a_restarted_server_answers_from_the_disk(make_app: Callable[..., Flask], engine: FakeEngine) -> None:
    post(make_app(engine).test_client())
    restarted = FakeEngine()
    client = make_app(restarted).test_client()
    assert [post(client, color=color).status_code for color in COLORS] == [200] * 7
    assert restarted.renders == []


@pytest.mark.parametrize(
    "damage", ["remove a result", "cut the manifest", "empty manifest", "manifest of another"]
)
def test_damaged_results_are_rendered_again(
    client: FlaskClient, engine: FakeEngine, settings: Settings, damage: str
) -> None:
    post(client)
    folder = settings.results_dir / "job-1"
    if damage == "remove a result":
        (folder / output_name("blue")).unlink()
    else:
        text = {
            "cut the manifest": '{"fing',
            "empty manifest": "",
            "manifest of another": '{"fingerprint": "x"}',
        }
        (folder / RECORD_NAME).write_text(text[damage])
    assert post(client, color="blue").status_code == 200
    assert len(engine.renders) == 2
    assert (folder / output_name("blue")).is_file()


def test_another_photo_replaces_the_results(client: FlaskClient, app: Flask, engine: FakeEngine) -> None:
    post(client, image=photo_bytes(red=10))
    post(client, image=photo_bytes(red=240))
    assert red_of(app, PHOTO_NAME) == 240
    assert red_of(app, output_name("blue")) == pytest.approx(240, abs=4)
    post(client, image=photo_bytes(red=10))
    assert red_of(app, output_name("blue")) == pytest.approx(10, abs=4)
    assert len(engine.renders) == 3


@pytest.mark.parametrize("changed", [{"seed": 1}, {"steps": 3}, {"jpeg_quality": 50}])
def test_other_settings_replace_the_results(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings, changed: dict[str, int]
) -> None:
    post(make_app(engine).test_client())
    post(make_app(engine, settings.replace(**changed)).test_client())
    assert len(engine.renders) == 2


def test_naming_the_models_own_steps_is_no_other_setting(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    post(make_app(engine).test_client())
    post(make_app(engine, settings.replace(steps=engine.info.steps)).test_client())
    assert len(engine.renders) == 1


def test_a_photo_replaced_while_it_renders_never_writes(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    first = later(pool, app, image=photo_bytes(red=10))
    old = manual.wait_for(1)
    second = later(pool, app, image=photo_bytes(red=240))
    new = manual.wait_for(2)
    assert (first.result(10).status_code, first.result().json["code"]) == (409, "replaced")
    wait_until(old.future.cancelled)
    new.finish()
    assert second.result(10).status_code == 200
    assert red_of(app, output_name("red")) == pytest.approx(240, abs=4)


def test_a_replaced_render_that_cannot_be_stopped_never_writes(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    first = later(pool, app, image=photo_bytes(red=10))
    old = manual.wait_for(1)
    old.future.cancel = lambda: False  # type: ignore[method-assign]
    second = later(pool, app, image=photo_bytes(red=240))
    manual.wait_for(2).finish()
    assert second.result(10).status_code == 200
    old.finish()
    assert first.result(10).json["code"] == "replaced"
    assert post(app.test_client(), image=photo_bytes(red=240), color="blue").status_code == 200
    assert red_of(app, output_name("blue")) == pytest.approx(240, abs=4)
    assert len(manual.renders) == 2


def test_going_back_to_the_stored_photo_stops_the_render_that_would_replace_it(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    first = later(pool, app, image=photo_bytes(red=10))
    manual.wait_for(1).finish()
    assert first.result(10).status_code == 200
    second = later(pool, app, image=photo_bytes(red=240))
    manual.wait_for(2)
    assert later(pool, app, image=photo_bytes(red=10), color="blue").result(10).status_code == 200
    assert second.result(10).json["code"] == "replaced"
    assert red_of(app, output_name("blue")) == pytest.approx(10, abs=4)


def test_an_unusable_photo_does_not_disturb_the_render_under_way(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    good = later(pool, app)
    render = manual.wait_for(1)
    assert later(pool, app, image=b"no image").result(10).status_code == 400
    render.finish()
    assert good.result(10).status_code == 200


def test_an_engine_without_all_adaptors_renders_the_colours_it_has(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    engine = FakeEngine(colors=("white", "red"))
    client = make_app(engine).test_client()
    assert post(client, color="red").status_code == 200
    assert post(client, color="blue").json["code"] == "bad_request"
    assert post(client, color="white").status_code == 200
    assert [render.colors for render in engine.renders] == [("white", "red")]


def test_jobs_do_not_see_each_other(app: Flask, engine: FakeEngine, pool: ThreadPoolExecutor) -> None:
    reds = {f"job-{number}": 30 * number for number in range(8)}
    answers = [later(pool, app, job_id=job_id, image=photo_bytes(red=red)) for job_id, red in reds.items()]
    assert {answer.result(10).status_code for answer in answers} == {200}
    for job_id, red in reds.items():
        assert red_of(app, output_name("white"), job_id) == pytest.approx(red, abs=4)
    assert len(engine.renders) == 8


def test_a_results_folder_that_cannot_be_written_answers_500_and_recovers(
    client: FlaskClient, settings: Settings
) -> None:
    settings.results_dir.write_text("a file where the folder should be")
    answer = post(client)
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    settings.results_dir.unlink()
    assert post(client).status_code == 200


def test_the_record_says_what_made_the_results(client: FlaskClient, settings: Settings) -> None:
    post(client)
    record = json.loads((settings.results_dir / "job-1" / RECORD_NAME).read_text())
    recipe = record["recipe"]
    assert recipe["engine"] == "fake-1"
    assert (recipe["seed"], recipe["steps"], recipe["jpeg_quality"]) == (42, 7, 95)
    assert set(record["files"]) == {PHOTO_NAME, *map(output_name, COLORS)}
    assert record["pending"] == [] and record["failures"] == {}


def test_nothing_is_left_beside_the_results(client: FlaskClient, settings: Settings) -> None:
    post(client)
    names = {path.name for path in (settings.results_dir / "job-1").iterdir()}
    assert names == {PHOTO_NAME, RECORD_NAME, *map(output_name, COLORS)}


def test_a_cleared_job_renders_again(client: FlaskClient, engine: FakeEngine, settings: Settings) -> None:
    post(client)
    JobStore(settings.results_dir).remove("job-1")
    post(client)
    assert len(engine.renders) == 2


def test_closing_the_engine_answers_those_who_wait(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    waiting = later(pool, make_app(manual))
    manual.wait_for(1)
    manual.close()
    assert (waiting.result(10).status_code, waiting.result().json["code"]) == (409, "cancelled")


def test_a_storm_of_requests_for_the_same_jobs_leaves_order_behind(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    app = make_app(FakeEngine(), settings.replace(request_timeout_s=30))
    site = site_of(app)

    def act(number: int) -> int:
        rng = random.Random(number)
        job_id, red = f"job-{rng.randrange(3)}", rng.choice((10, 120, 240))
        client = app.test_client()
        kind = rng.randrange(10)
        if kind == 0:
            return client.delete(f"/jobs/{job_id}").status_code
        if kind == 1:
            return client.get(f"/jobs/{job_id}").status_code
        options = {"colors": rng.choice(("red", "blue,green"))} if kind < 5 else {"color": rng.choice(COLORS)}
        return post(client, job_id=job_id, image=photo_bytes(red=red), **options).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(act, range(300)))
    assert set(statuses) <= {200, 404, 409} and statuses.count(200) > 20
    wait_until(lambda: not any(site.jobs.is_active(f"job-{number}") for number in range(3)))
    assert site.queue.length == 0
    assert site.jobs._claims.is_empty  # nothing is left behind in memory either
    for number in range(3):
        job_id = f"job-{number}"
        # a photo that the storm had not: of one that it had, some colours may be stored, and no more are rendered
        assert post(app.test_client(), job_id=job_id, image=photo_bytes(red=60)).status_code == 200
        names = [PHOTO_NAME, *map(output_name, COLORS)]
        assert [red_of(app, name, job_id) for name in names] == pytest.approx([60] * 8, abs=4)
    assert not list(settings.results_dir.glob("*/.*.part"))


def test_pictures_are_let_go_of_without_the_garbage_collector(app: Flask, engine: FakeEngine) -> None:
    gc.disable()
    try:
        pictures = []
        for number in range(3):
            post(app.test_client(), job_id=f"job-{number}", image=photo_bytes(red=number))
            pictures += [weakref.ref(image) for image in engine.renders.pop().future.result().values()]
        wait_until(lambda: all(picture() is None for picture in pictures))
    finally:
        gc.enable()
