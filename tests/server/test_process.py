"""`POST /process`: the contract, the texts of its refusals, and what hostile forms get."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from lumiply.colors import COLORS
from lumiply.errors import BusyError, RenderError
from lumiply.images import encode_png
from lumiply.sending import encode_form
from lumiply.settings import Settings
from tests.fakes import INFO, FakeEngine, FakeSender, photo_bytes, wait_until
from tests.server.conftest import post


def test_success_is_exactly_the_contract(client: FlaskClient) -> None:
    answer = post(client, job_id="c1f0dffe-1", color="red")
    assert answer.status_code == 200
    assert answer.json == {
        "job_id": "c1f0dffe-1",
        "status": "completed",
        "result": {
            "images": {"red": "http://localhost/static/inference/c1f0dffe-1/output_red.jpg"},
            "input_image_url": "http://localhost/static/inference/c1f0dffe-1/off.png",
        },
        "message": "색상 이미지 생성 완료",
    }


def send(client: FlaskClient, fields: dict[str, str], image: bytes) -> TestResponse:
    """`POST /process` with a form that never goes through a file of the test client's."""
    content_type, body = encode_form(fields, "image", "a.png", image)
    return client.post("/process", data=body, content_type=content_type)


@pytest.mark.parametrize("size", [(1480, 1110), (300, 200)])
def test_photos_of_the_gateways_size_are_taken(client: FlaskClient, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = encode_png(Image.fromarray(noise))
    assert send(client, {"job_id": "job-1", "color": "red"}, image).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [{"job_id": "x" * 600_000}, {f"f{number}": "x" for number in range(30)}, {"image": "x" * 600_000}],
    ids=["long", "many", "image without a filename"],
)
def test_forms_with_too_long_or_too_many_fields_are_refused(
    client: FlaskClient, fields: dict[str, str]
) -> None:
    answer = send(client, fields, photo_bytes())
    assert (answer.status_code, answer.json["code"]) == (413, "form_too_large")
    assert answer.json["figures"] == {"limit": "0.5", "parts": "20"}
    assert all(part in answer.json["error"] for part in ("0.5MB", "20개", "filename"))


def test_the_public_url_setting_names_the_results(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    client = make_app(engine, settings.replace(public_url="https://a.ngrok-free.dev/")).test_client()
    result = post(client).json["result"]
    assert result["input_image_url"] == "https://a.ngrok-free.dev/static/inference/job-1/off.png"


@pytest.mark.parametrize(
    ("fields", "text", "code"),
    [
        ({"image": None}, "이미지 파일이 없습니다.", "missing_image"),
        ({"image": b""}, "이미지 파일이 없습니다.", "missing_image"),
        ({"image": "text instead of a file"}, "이미지 파일이 없습니다.", "missing_image"),
        ({"job_id": None}, "job_id가 없습니다.", "missing_job_id"),
        ({"job_id": ""}, "job_id가 없습니다.", "missing_job_id"),
        ({"color": None}, "color 파라미터가 필요합니다.", "missing_color"),
        ({"color": ""}, "color 파라미터가 필요합니다.", "missing_color"),
        ({"color": "pink"}, "지원하지 않는 색상입니다: pink", "unknown_color"),
        ({"color": "RED"}, "지원하지 않는 색상입니다: RED", "unknown_color"),
    ],
)
def test_refusals_have_the_texts_of_the_contract(
    client: FlaskClient, fields: dict[str, object], text: str, code: str
) -> None:
    answer = post(client, **fields)
    assert answer.status_code == 400
    assert answer.json == {"success": False, "error": text, "code": code}


def test_checks_come_in_the_order_of_the_contract(client: FlaskClient) -> None:
    assert post(client, image=None, job_id=None, color=None).json["code"] == "missing_image"
    assert post(client, job_id=None, color=None).json["code"] == "missing_job_id"
    assert post(client, color=None, job_id="../x").json["code"] == "missing_color"
    assert post(client, color="pink", job_id="../x").json["code"] == "unknown_color"


def test_a_body_that_is_no_form_misses_its_image(client: FlaskClient) -> None:
    answer = client.post("/process", data=b"{}", content_type="application/json")
    assert (answer.status_code, answer.json["code"]) == (400, "missing_image")


@pytest.mark.parametrize(
    "job_id",
    ["../x", "..", ".", "...", "a/b", "a\\b", "/etc", "C:\\x", "a\0b", " ", "a b", "x" * 129, "x" * 500,
     "작업", "a\n", "\nb", ".hidden", "-rf", "%2e%2e", "..%2fx", "a;b", "~", "١"],
)  # fmt: skip
def test_a_job_id_that_is_no_plain_name_is_refused_and_writes_nothing(
    client: FlaskClient, engine: FakeEngine, tmp_path: Path, job_id: str
) -> None:
    answer = post(client, job_id=job_id)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_job_id")
    assert engine.renders == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "job_id", ["a", "3f2b8c1e-aaaa-4bbb-8ccc-0123456789ab", "A_b.c-9", "x" * 128, "a..b"]
)
def test_plain_names_are_good_job_ids(client: FlaskClient, job_id: str) -> None:
    assert post(client, job_id=job_id).status_code == 200


@pytest.mark.parametrize(
    "image",
    [
        b"not an image",
        photo_bytes()[:60],
        photo_bytes(size=(300, 300), format="JPEG")[:-900],
        b"GIF89a" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
    ids=["text", "cut png", "cut jpeg", "gif", "svg", "postscript"],
)
def test_an_upload_that_is_no_whole_photo_is_refused(client: FlaskClient, image: bytes) -> None:
    answer = post(client, image=image)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_image")


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 10_000, 30_000], ids=["64 MP", "100 MP", "900 MP"])
def test_a_header_that_claims_too_many_pixels_is_refused_with_the_numbers(
    client: FlaskClient, side: int
) -> None:
    answer = post(client, image=png_header(side, side))
    assert (answer.status_code, answer.json["code"]) == (413, "image_too_large")
    assert f"{side * side / 1e6:.1f}메가픽셀" in answer.json["error"]
    assert "한도 50메가픽셀" in answer.json["error"]
    assert answer.json["figures"] == {"megapixels": f"{side * side / 1e6:.1f}", "limit": "50"}


def test_a_body_over_the_limit_is_refused(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    client = make_app(engine, settings.replace(max_upload_mb=0.01)).test_client()
    answer = post(client, image=bytes(20_000))
    assert (answer.status_code, answer.json["code"]) == (413, "upload_too_large")
    assert "0.01MB" in answer.json["error"] and answer.json["figures"] == {"limit": "0.01"}


@pytest.mark.parametrize(
    "error", [RuntimeError("secret detail"), RenderError("secret detail"), MemoryError("secret detail")]
)
def test_a_failing_engine_answers_500_and_tells_no_details(
    client: FlaskClient, engine: FakeEngine, error: Exception
) -> None:
    engine.error = error
    answer = post(client)
    assert answer.status_code == 500
    assert set(answer.json) == {"success", "error", "code"}
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_a_failed_render_is_tried_again_when_asked_again(client: FlaskClient, engine: FakeEngine) -> None:
    engine.error = RenderError("out of memory")
    assert post(client).status_code == 500
    engine.error = None
    assert post(client).status_code == 200


def test_a_full_queue_answers_busy_with_retry_after(make_app: Callable[..., Flask]) -> None:
    client = make_app(FakeEngine(queue_size=0)).test_client()
    answer = post(client)
    assert (answer.status_code, answer.json["code"]) == (503, BusyError.code)
    assert int(answer.headers["Retry-After"]) > 0


def test_a_render_that_takes_too_long_answers_504_and_frees_its_slot(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    engine = FakeEngine(manual=True)
    client = make_app(engine, settings.replace(request_timeout_s=0.05)).test_client()
    answer = post(client)
    assert (answer.status_code, answer.json["code"]) == (504, "timeout")
    wait_until(engine.renders[0].future.cancelled)
    wait_until(lambda: client.get("/health").json["queue"]["length"] == 0)
    engine.manual = False
    assert post(make_app(engine, settings).test_client()).status_code == 200
    assert len(engine.renders) == 2


def test_the_gateway_is_still_there_when_a_request_is_given_up() -> None:
    assert Settings().request_timeout_s < 300  # the gateway's own limit


def test_seed_and_steps_come_from_the_settings(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    post(make_app(engine, settings.replace(seed=5, steps=3)).test_client())
    assert (engine.renders[0].seed, engine.renders[0].steps, engine.renders[0].colors) == (5, 3, COLORS)


def test_unknown_addresses_and_methods_answer_json(client: FlaskClient) -> None:
    missing, wrong = client.get("/nowhere"), client.get("/process")
    assert (missing.status_code, missing.json["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]


def test_a_host_header_that_is_none_is_refused_before_anything_is_rendered(
    client: FlaskClient, engine: FakeEngine
) -> None:
    form = {"image": (BytesIO(photo_bytes()), "a.png"), "job_id": "job-1", "color": "red"}
    answer = client.post("/process", data=form, headers={"Host": "a<b>c"})
    assert (answer.status_code, answer.json["code"]) == (400, "bad_request")
    assert engine.renders == []


def test_browsers_of_other_origins_may_call(client: FlaskClient) -> None:
    assert client.get("/health", headers={"Origin": "https://a.example"}).headers[
        "Access-Control-Allow-Origin"
    ]


def test_health_says_what_runs(client: FlaskClient) -> None:
    answer = client.get("/health?anything=1")
    assert answer.status_code == 200
    assert answer.json["status"] == "healthy"
    assert answer.json["message"] == "Colab 서버가 실행 중입니다."
    assert answer.json["timestamp"]
    assert answer.json["model"] == "fake"
    assert answer.json["queue"] == {"length": 0, "limit": 64}


def test_health_answers_while_the_model_loads(make_app: Callable[..., Flask]) -> None:
    answer = make_app(None).test_client().get("/health")
    assert (answer.status_code, answer.json["status"], answer.json["engine"]) == (200, "healthy", "loading")


def test_an_allowed_callback_receives_the_answer(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    sender = FakeSender()
    client = make_app(engine, settings.replace(callback_hosts="good.example"), sender=sender).test_client()
    answer = post(client, callback_url="https://good.example/api/callback/job-1")
    assert answer.status_code == 200
    assert sender.called.wait(10)
    [(url, body)] = sender.sent
    assert url == "https://good.example/api/callback/job-1"
    assert client.application.json.loads(body) == answer.json


def test_a_failing_callback_harms_nobody(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    sender = FakeSender(OSError("connection refused"))
    client = make_app(engine, settings.replace(callback_hosts="good.example"), sender=sender).test_client()
    assert post(client, callback_url="https://good.example/").status_code == 200
    assert sender.called.wait(10)


def test_a_callback_that_takes_long_does_not_delay_the_answer(
    make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings
) -> None:
    may_end = threading.Event()

    class SlowSender(FakeSender):
        def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
            status = super().post(url, body, headers)
            assert may_end.wait(30)
            return status

    sender = SlowSender()
    client = make_app(engine, settings.replace(callback_hosts="good.example"), sender=sender).test_client()
    for job in ("one", "two"):  # the second while the first is being delivered
        assert post(client, job_id=job, callback_url="https://good.example/").status_code == 200
        assert sender.called.wait(10)
    may_end.set()
    wait_until(lambda: len(sender.sent) == 2)


def test_other_weights_render_again(make_app: Callable[..., Flask], engine: FakeEngine) -> None:
    post(make_app(engine).test_client())
    other = FakeEngine(info=replace(INFO, fingerprint="fake-2"))
    assert post(make_app(other).test_client()).status_code == 200
    assert len(other.renders) == 1
