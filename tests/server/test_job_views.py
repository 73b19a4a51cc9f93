"""`/jobs/<job_id>`: how far a job is, and its end; and what jobs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from lumiply.colors import COLORS
from lumiply.engine.protocol import Progress
from lumiply.server.names import output_name
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, FakeRender, photo_bytes, wait_until
from tests.server.conftest import later, post

DEADLINE = 10


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def manual() -> FakeEngine:
    return FakeEngine(manual=True)


def job(app: Flask, job_id: str = "job-1") -> dict:
    answer = app.test_client().get(f"/jobs/{job_id}")
    assert answer.status_code == 200
    return answer.json


def tell(render: FakeRender, stage: str, step: int, steps: int) -> None:
    assert render.progress is not None
    render.progress(Progress(stage, step, steps))  # type: ignore[arg-type]


def test_a_finished_job_has_the_agreed_shape(app: Flask) -> None:
    post(app.test_client(), color="red")
    found = job(app)
    base = "http://localhost/static/inference/job-1"
    assert found.pop("created")
    assert found == {
        "job_id": "job-1",
        "state": "completed",
        "queue_place": 0,
        "colors": {
            color: {
                "state": "completed",
                "steps_done": 7,
                "steps": 7,
                "image_url": f"{base}/output_{color}.jpg",
                "error": None,
            }
            for color in COLORS
        },
        "input_image_url": f"{base}/off.png",
    }


def test_a_running_job_tells_its_steps(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    answer = later(pool, app, colors="red,blue")
    render = manual.wait_for(1)
    assert job(app)["state"] == "queued"
    for stage, step, done in [("prepare", 0, 0), ("denoise", 3, 3), ("denoise", 7, 7), ("decode", 1, 7)]:
        tell(render, stage, step, 7)
        found = job(app)
        assert (found["state"], found["queue_place"]) == ("running", 0)
        assert {color: entry["steps_done"] for color, entry in found["colors"].items()} == {
            "red": done,
            "blue": done,
        }
        assert found["colors"]["red"]["image_url"] is None
    render.finish()
    assert answer.result(DEADLINE).status_code == 200
    assert job(app)["state"] == "completed"


def test_waiting_jobs_tell_their_place(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    answers = []
    for number in range(4):
        answers.append(later(pool, app, job_id=f"job-{number}", image=photo_bytes(red=number)))
        wait_until(lambda number=number: site_of(app).queue.length == number + 1)
    tell(manual.wait_for(1), "prepare", 0, 1)
    assert [job(app, f"job-{number}")["queue_place"] for number in range(4)] == [0, 1, 2, 3]
    for number in range(4):
        manual.wait_for(number + 1).finish()
    assert [answer.result(DEADLINE).status_code for answer in answers] == [200] * 4


def test_a_failed_job_says_why_after_a_restart_too(
    make_app: Callable[..., Flask], engine: FakeEngine, manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    engine.error = RuntimeError("secret")
    app = make_app(engine)
    post(app.test_client(), colors="red")
    for found in (job(app), job(make_app(FakeEngine()))):
        assert found["state"] == "failed"
        assert found["colors"]["red"]["error"]["code"] == "internal_error"
        assert "secret" not in str(found)


def test_an_interrupted_job_says_so_and_renders_again_when_asked(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor, settings: Settings
) -> None:
    first = make_app(manual)
    later(pool, first, colors="red")
    wait_until(lambda: (settings.results_dir / "job-1" / ".job.json").exists())
    restarted = make_app(FakeEngine())
    found = job(restarted)
    assert (found["state"], found["colors"]["red"]["error"]["code"]) == ("failed", "interrupted")
    assert post(restarted.test_client(), colors="red").status_code == 200
    assert job(restarted)["state"] == "completed"
    site_of(first).close(0)


def test_a_job_that_went_back_to_its_stored_photo_is_completed(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    first = later(pool, app, image=photo_bytes(10))
    manual.wait_for(1).finish()
    assert first.result(DEADLINE).status_code == 200
    other = later(pool, app, image=photo_bytes(20))
    manual.wait_for(2)
    assert post(app.test_client(), image=photo_bytes(10)).status_code == 200  # from the disk
    assert other.result(DEADLINE).json["code"] == "replaced"
    assert job(app)["state"] == "completed"


def test_a_job_whose_last_photo_failed_shows_no_pictures_of_the_former(
    app: Flask, engine: FakeEngine
) -> None:
    client = app.test_client()
    post(client, image=photo_bytes(10))
    engine.error = RuntimeError("x")
    assert post(client, image=photo_bytes(20)).status_code == 500
    assert job(app)["state"] == "failed"
    assert {color["image_url"] for color in job(app)["colors"].values()} == {None}
    assert post(client, image=photo_bytes(10)).status_code == 200  # from the disk
    assert job(app)["state"] == "completed"


@pytest.mark.parametrize("method", ["get", "delete"])
def test_unknown_jobs_are_404_and_bad_names_400(app: Flask, method: str) -> None:
    client = app.test_client()
    unknown, outside, strange = (
        getattr(client, method)(f"/jobs/{name}") for name in ("nobody", "..%2fx", "-rf")
    )
    assert (unknown.status_code, unknown.json["code"]) == (404, "unknown_job")
    assert (outside.status_code, outside.json["code"]) == (404, "not_found")
    assert (strange.status_code, strange.json["code"]) == (400, "invalid_job_id")


def test_deleting_a_finished_job_removes_its_files(app: Flask, settings: Settings) -> None:
    client = app.test_client()
    post(client)
    answer = client.delete("/jobs/job-1")
    assert (answer.status_code, answer.json["state"]) == (200, "completed")
    assert answer.json["colors"]["red"]["image_url"] is None
    assert not (settings.results_dir / "job-1").exists()
    assert client.get("/jobs/job-1").status_code == 404
    assert client.get("/static/inference/job-1/output_red.jpg").status_code == 404


def test_deleting_a_running_job_ends_its_render_and_answers_those_who_wait(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor, settings: Settings
) -> None:
    app = make_app(manual)
    waiting = later(pool, app)
    render = manual.wait_for(1)
    answer = app.test_client().delete("/jobs/job-1")
    assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
    assert (waiting.result(DEADLINE).status_code, waiting.result().json["code"]) == (409, "cancelled")
    wait_until(render.future.cancelled)
    assert not (settings.results_dir / "job-1").exists()


def test_deleting_one_of_two_jobs_that_share_a_render_leaves_the_other_its_render(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    first = later(pool, app, job_id="a")
    render = manual.wait_for(1)
    second = later(pool, app, job_id="b")
    wait_until(lambda: len(site_of(app).jobs.activity("b")) == 1)
    app.test_client().delete("/jobs/a")
    assert first.result(DEADLINE).status_code == 409
    render.finish()
    assert second.result(DEADLINE).status_code == 200
    assert len(manual.renders) == 1


def test_the_same_photo_under_another_job_takes_no_render_even_after_a_restart(
    make_app: Callable[..., Flask], engine: FakeEngine
) -> None:
    post(make_app(engine).test_client(), job_id="a")
    restarted = FakeEngine()
    client = make_app(restarted).test_client()
    for color in COLORS:
        assert post(client, job_id="b", color=color).status_code == 200
        assert client.get(f"/static/inference/b/{output_name(color)}", buffered=True).status_code == 200
    assert restarted.renders == []
    assert 'lumiply_cache_total{kind="other"} 1.0' in client.get("/metrics").text


def test_two_jobs_that_ask_for_the_same_at_once_take_one_render(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor
) -> None:
    app = make_app(manual)
    answers = [later(pool, app, job_id=f"job-{number}") for number in range(6)]
    wait_until(lambda: all(site_of(app).jobs.activity(f"job-{number}") for number in range(6)))
    manual.wait_for(1).finish()
    assert [answer.result(DEADLINE).status_code for answer in answers] == [200] * 6
    assert len(manual.renders) == 1


@pytest.mark.parametrize("changed", [{"seed": "5"}, {"steps": "3"}, {"preset": "fast"}])
def test_other_settings_of_the_request_are_another_render(
    app: Flask, engine: FakeEngine, changed: dict[str, str]
) -> None:
    client = app.test_client()
    post(client, job_id="a")
    post(client, job_id="b", **changed)
    assert len(engine.renders) == 2


def test_only_the_colours_named_are_rendered_and_the_others_follow_when_asked(
    app: Flask, engine: FakeEngine
) -> None:
    client = app.test_client()
    answer = post(client, color=None, colors="blue,red")
    assert list(answer.json["result"]["images"]) == ["red", "blue"]
    assert post(client, color="red").status_code == 200
    post(client, color="white")
    assert [render.colors for render in engine.renders] == [
        ("red", "blue"),
        ("white", "orange", "yellow", "green", "purple"),
    ]


def test_seed_steps_and_preset_reach_the_engine(app: Flask, engine: FakeEngine) -> None:
    client = app.test_client()
    post(client, job_id="a", colors="red", seed="5", steps="3")
    post(client, job_id="b", colors="red", preset="fast")
    post(client, job_id="c", colors="red", preset="fast", steps="9")
    assert [(r.seed, r.steps, r.preset) for r in engine.renders] == [
        (5, 3, None),
        (42, 2, "fast"),
        (42, 9, "fast"),
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"seed": "-1"}, "invalid_seed"),
        ({"seed": "1.5"}, "invalid_seed"),
        ({"seed": "٣"}, "invalid_seed"),
        ({"seed": str(2**63)}, "invalid_seed"),
        ({"seed": "9" * 5000}, "invalid_seed"),
        ({"steps": "0"}, "invalid_steps"),
        ({"steps": "1001"}, "invalid_steps"),
        ({"preset": "warp"}, "invalid_preset"),
        ({"colors": "red,pink"}, "unknown_color"),
        ({"color": None, "colors": " , "}, "missing_color"),
    ],
)
def test_optional_fields_that_cannot_be_meant_are_refused(
    app: Flask, fields: dict[str, str], code: str
) -> None:
    answer = post(app.test_client(), **fields)
    assert (answer.status_code, answer.json["code"]) == (400, code)


def test_a_render_that_nobody_waits_for_any_longer_is_ended_but_not_before(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor, settings: Settings
) -> None:
    hasty = make_app(manual, settings.replace(request_timeout_s=0.2))
    assert later(pool, hasty, job_id="a").result(DEADLINE).status_code == 504
    wait_until(manual.renders[0].future.cancelled)
    assert job(hasty, "a")["colors"]["red"]["error"]["code"] == "timeout"


def test_more_waiting_requests_than_threads_to_spare_are_refused_and_health_goes_on(
    make_app: Callable[..., Flask], manual: FakeEngine, pool: ThreadPoolExecutor, settings: Settings
) -> None:
    app = make_app(manual, settings.replace(threads=8))
    waiting = [later(pool, app, color=color) for color in COLORS[:6]]
    wait_until(lambda: sum(t.waiting for t in site_of(app).jobs.activity("job-1")) == 6)
    refused = post(app.test_client(), color="purple")
    assert (refused.status_code, refused.json["code"]) == (503, "busy")
    assert app.test_client().get("/health").status_code == 200
    manual.wait_for(1).finish()
    assert [answer.result(DEADLINE).status_code for answer in waiting] == [200] * 6
    assert post(app.test_client(), color="purple").status_code == 200


def test_nothing_is_written_for_a_request_that_is_refused(
    make_app: Callable[..., Flask], settings: Settings, tmp_path: Path
) -> None:
    client = make_app(FakeEngine(), settings.replace(threads=8)).test_client()
    post(client, image=b"no image")
    post(client, seed="x")
    assert not settings.results_dir.exists()
