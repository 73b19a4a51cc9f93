"""`/health`, `/ready`, `/metrics`, and the log: what an operator sees."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from lumiply.commands.common import JsonFormatter
from lumiply.engine.protocol import Progress
from lumiply.server import EngineSlot, FlaskServerThread
from lumiply.server.access import logfmt
from lumiply.server.dispatch import RenderQueue
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes, wait_until
from tests.server.conftest import later, post


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def ready(app: Flask) -> tuple[int, str]:
    answer = app.test_client().get("/ready")
    return answer.status_code, answer.json.get("code", "")


def test_ready_follows_the_engine(make_app: Callable[..., Flask]) -> None:
    slot = EngineSlot()
    app = make_app(slot)
    assert ready(app) == (503, "loading")
    slot.put(FakeEngine())
    assert ready(app) == (200, "")
    site_of(app).close(0)
    assert ready(app) == (503, "unavailable")
    assert app.test_client().get("/health").status_code == 200


def test_ready_says_that_loading_failed(make_app: Callable[..., Flask]) -> None:
    slot = EngineSlot()
    slot.fail(RuntimeError("secret path"))
    client = make_app(slot).test_client()
    answer, health = client.get("/ready"), client.get("/health")
    assert (answer.status_code, answer.json["code"]) == (503, "failed")
    assert (health.status_code, health.json["engine"]) == (200, "failed")
    assert "secret" not in answer.text + health.text


def test_ready_says_that_nothing_goes_on_before_the_watchdog_has_acted(
    make_app: Callable[..., Flask],
    settings: Settings,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RenderQueue, "_watch", lambda queue: None)
    engine = FakeEngine(manual=True)
    app = make_app(engine, settings.replace(stuck_after_s=0.1))
    answer = later(pool, app)
    engine.wait_for(1)
    wait_until(lambda: ready(app) == (503, "stuck"))
    assert app.test_client().get("/health").status_code == 200
    engine.renders[0].finish()
    assert answer.result(10).status_code == 200 and ready(app) == (200, "")


def test_a_stuck_engine_is_reported_replaced_and_forgotten(
    make_app: Callable[..., Flask], settings: Settings, pool: ThreadPoolExecutor
) -> None:
    stuck, second = FakeEngine(manual=True), FakeEngine()
    building, may_build = [], __import__("threading").Event()

    def build() -> FakeEngine:
        building.append(1)
        assert may_build.wait(10)
        return second

    app = make_app(EngineSlot(stuck, build=build), settings.replace(stuck_after_s=0.1))
    answer = later(pool, app)
    hung = stuck.wait_for(1)
    assert hung.progress is not None
    hung.progress(Progress("denoise", 1, 7))
    wait_until(lambda: building)
    assert ready(app) == (503, "restarting")
    assert app.test_client().get("/health").status_code == 200
    more = later(
        pool, app, job_id="during", image=photo_bytes(red=1)
    )  # taken, and rendered by the next engine
    wait_until(lambda: site_of(app).queue.length == 2)
    may_build.set()
    assert answer.result(10).status_code == more.result(10).status_code == 200
    assert ready(app) == (200, "")
    assert len(second.renders) == 2


def figures(client: FlaskClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        sample.name
        + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_count_what_happened(client: FlaskClient, engine: FakeEngine) -> None:
    post(client)
    post(client, color="blue")
    post(client, color="pink")
    client.get("/static/inference/job-1/output_red.jpg", buffered=True)
    found = figures(client)
    assert found["lumiply_http_requests_total,code=200,endpoint=post_process,method=POST"] == 2
    assert found["lumiply_http_requests_total,code=400,endpoint=post_process,method=POST"] == 1
    assert found["lumiply_http_requests_total,code=200,endpoint=get_result,method=GET"] == 1
    assert found["lumiply_cache_total,kind=miss"] == found["lumiply_cache_total,kind=own"] == 1
    assert found["lumiply_renders_total,outcome=completed"] == 1
    assert (found["lumiply_batch_size_count"], found["lumiply_batch_size_sum"]) == (1, 7)
    for stage in ("queued", "denoise", "store"):
        assert found[f"lumiply_stage_seconds_count,stage={stage}"] == 1
    assert found["lumiply_queue_length"] == 0 and found["lumiply_engine_ready"] == 1


def test_metrics_never_load_torch(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert "lumiply_gpu" not in client.get("/metrics").text


def test_gpu_memory_is_told_where_there_is_one(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        is_available = is_initialized = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 1)
        memory_allocated = staticmethod(lambda device: 5)
        memory_reserved = staticmethod(lambda device: 6)
        max_memory_allocated = staticmethod(lambda device: 7)

    monkeypatch.setitem(__import__("sys").modules, "torch", type("Torch", (), {"cuda": Cuda}))
    assert figures(client)["lumiply_gpu_memory_bytes,device=0,kind=peak"] == 7


def test_a_request_is_one_line_with_its_job_and_without_secrets(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    token = "a-token-nobody-may-see"
    client = make_app(engine, settings.replace(token=token)).test_client()
    with caplog.at_level(logging.DEBUG):
        answer = client.post(
            f"/process?token={token}",
            data={
                "image": (__import__("io").BytesIO(photo_bytes()), "a.png"),
                "job_id": "job-9",
                "color": "red",
            },
            headers={"Authorization": f"Bearer {token}", "X-API-Key": token},
        )
        client.get("/jobs/job-9?token=wrong-token-wrong-token")
    assert answer.status_code == 200
    lines = [record for record in caplog.records if record.name == "lumiply.access"]
    assert [line.fields["status"] for line in lines] == [200, 401]
    assert re.fullmatch(
        r"method=POST path=/process status=200 ms=[\d.]+ bytes=\d+ job=job-9 colors=red from=127.0.0.1",
        lines[0].getMessage(),
    )
    assert "code=unauthorized" in lines[1].getMessage()
    everything = "".join(JsonFormatter().format(record) for record in caplog.records)
    assert token not in everything and "wrong-token" not in everything and "PNG" not in everything


def test_a_file_that_is_not_sent_again_counts_no_bytes(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    post(client)
    address = "/static/inference/job-1/output_red.jpg"
    etag = client.head(address, buffered=True).headers["ETag"]
    with caplog.at_level(logging.INFO):
        client.get(address, headers={"If-None-Match": etag}, buffered=True)
    assert f"path={address} status=304 " in caplog.messages[-1]
    assert " bytes=0 job=job-1 " in caplog.messages[-1]


def test_a_refused_form_is_logged_with_its_job(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        post(client, color="pink")
        post(client, job_id="../x\n")
    assert [record.fields.get("job") for record in caplog.records] == ["job-1", None]


def test_what_never_reaches_the_application_is_logged_and_counted_as_well(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    head = "POST /process?token=secret HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n"
    with caplog.at_level(logging.INFO), FlaskServerThread(app, "127.0.0.1", 0) as server:
        for sent in ("garbage\r\n\r\n", head):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            with connection, connection.makefile("rb") as stream:
                connection.sendall(sent.encode())
                assert stream.readline().startswith(b"HTTP/1.")
    lines = [record.getMessage() for record in caplog.records if record.name == "lumiply.access"]
    assert lines == [
        "status=400 code=bad_request from=127.0.0.1",
        "method=POST path=/process status=413 code=upload_too_large from=127.0.0.1",
    ]
    assert figures(app.test_client())["lumiply_http_requests_total,code=413,endpoint=none,method=POST"] == 1


def test_json_lines_carry_the_fields(caplog: pytest.LogCaptureFixture, client: FlaskClient) -> None:
    with caplog.at_level(logging.INFO):
        client.get("/health")
        logging.getLogger("x").info("plain %s", "words")
    [access] = [json.loads(JsonFormatter().format(r)) for r in caplog.records if r.name == "lumiply.access"]
    assert (access["path"], access["status"], access["level"]) == ("/health", 200, "info")
    assert json.loads(JsonFormatter().format(caplog.records[-1]))["message"] == "plain words"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a", "v=a"), ("a b", 'v="a b"'), ("a\nb=c", r'v="a\nb=c"'), ('"', r'v="\""'), ("", 'v=""')],
)
def test_hostile_values_stay_on_their_line(value: str, shown: str) -> None:
    assert logfmt({"v": value}) == shown
