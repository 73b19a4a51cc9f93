"""Several servers over one bucket of a real S3 server: what clients see, and what they see when it fails."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from PIL import Image

from lumiply import client
from lumiply.colors import COLORS
from lumiply.doctor import check_bucket
from lumiply.errors import SettingsError
from lumiply.images import encode_png, read_photo
from lumiply.server import FlaskServerThread
from lumiply.server.names import PHOTO_NAME, output_name
from lumiply.server.site import site_of
from lumiply.server.storage import OpenFile
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes, wait_until
from tests.server.conftest import later, needs_fsspec, post

if TYPE_CHECKING:
    from werkzeug.wrappers import Request, Response

    from tests.s3 import S3Server

pytestmark = needs_fsspec

BASE = "/static/inference/job-1"


@pytest.fixture
def settings(s3: S3Server) -> Settings:
    return Settings(results_url=s3.new_url(), port=0, request_timeout_s=20)


@pytest.fixture
def other_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def other(app: Flask, make_app: Callable[..., Flask], other_engine: FakeEngine) -> Flask:
    """A second server on the same results, with an engine of its own."""
    return make_app(other_engine)


def get(app: Flask, path: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_client().get(path, headers=named, buffered=True)


def stored(app: Flask, s3: S3Server) -> list[str]:
    """All objects but signs of life."""
    bucket = urlsplit(str(site_of(app).settings.results_url)).netloc
    return [key for key in s3.keys(bucket) if "/.servers/" not in f"/{key}"]


# What clients see


def test_a_photo_that_comes_again_finds_its_results_at_another_server(
    app: Flask, other: Flask, other_engine: FakeEngine
) -> None:
    first = post(app.test_client())
    again = [post(other.test_client(), color=color) for color in COLORS]
    assert [answer.status_code for answer in again] == [200] * 7
    assert again[1].json == first.json
    assert post(other.test_client(), job_id="another-job").status_code == 200
    assert other_engine.renders == []
    for index, color in enumerate(COLORS):
        for job_id in ("job-1", "another-job"):
            served = get(other, f"/static/inference/{job_id}/{output_name(color)}").data
            assert Image.open(BytesIO(served)).getpixel((0, 0)) == pytest.approx(
                (200, 30 * index, 128), abs=4
            )
    assert get(app, f"{BASE}/{PHOTO_NAME}").data == get(other, f"{BASE}/{PHOTO_NAME}").data


def test_a_restarted_server_finds_what_it_answered(
    make_app: Callable[..., Flask], engine: FakeEngine
) -> None:
    app = make_app(engine)
    post(app.test_client())
    site_of(app).close(0)
    restarted = make_app(FakeEngine())
    assert get(restarted, "/jobs/job-1").json["state"] == "completed"
    assert post(restarted.test_client()).status_code == 200
    assert len(engine.renders) == 1 and site_of(restarted).queue.length == 0


@pytest.mark.parametrize(("name", "type"), [("off.png", "image/png"), ("output_red.jpg", "image/jpeg")])
def test_results_are_served_as_from_a_folder(app: Flask, other: Flask, name: str, type: str) -> None:
    post(app.test_client())
    whole = get(other, f"{BASE}/{name}")
    assert (whole.status_code, whole.headers["Content-Type"]) == (200, type)
    assert int(whole.headers["Content-Length"]) == len(whole.data) > 100
    assert whole.headers["Cache-Control"] == "max-age=0, public"
    etag = whole.headers["Etag"]
    assert get(app, f"{BASE}/{name}").headers["Etag"] == etag  # whichever server is asked
    unchanged = get(other, f"{BASE}/{name}", If_None_Match=etag)
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    part = get(other, f"{BASE}/{name}", Range="bytes=2-9")
    assert (part.status_code, part.data) == (206, whole.data[2:10])
    assert part.headers["Content-Range"] == f"bytes 2-9/{len(whole.data)}"
    assert get(other, f"{BASE}/{name}", Range="bytes=-5", If_Range=etag).data == whole.data[-5:]
    assert get(other, f"{BASE}/{name}", Range="bytes=9999999-").status_code == 416
    head = other.test_client().head(f"{BASE}/{name}")
    assert (head.status_code, head.data, head.headers["Etag"]) == (200, b"", etag)


def test_large_results_stream_through_the_real_server(app: Flask, s3: S3Server) -> None:
    import urllib.request

    upload = BytesIO()
    Image.effect_noise((1000, 1000), 90).convert("RGB").save(upload, "JPEG", quality=10)
    post(app.test_client(), image=upload.getvalue())
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        with urllib.request.urlopen(f"{server.url}{BASE}/off.png") as answer:
            body = answer.read()
            assert int(answer.headers["Content-Length"]) == len(body) > 600_000
        asked = urllib.request.Request(
            f"{server.url}{BASE}/off.png", headers={"Range": "bytes=500000-500099"}
        )
        with urllib.request.urlopen(asked) as answer:
            assert (answer.status, answer.read()) == (206, body[500_000:500_100])
    assert body == encode_png(read_photo(upload.getvalue()))


def test_the_servers_loop_never_waits_for_the_bucket(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    post(app.test_client())
    files, readers, body = site_of(app).store.files, set(), bytes(20_000_000)  # no socket takes that at once

    class Watched(BytesIO):
        def read(self, *size: int | None) -> bytes:
            readers.add(threading.current_thread().name.partition("-")[0])
            return super().read(*size)

    def open_watched(job_id: str, name: str, real: Callable[..., OpenFile] = files.open) -> OpenFile:
        with (file := real(job_id, name)).stream:
            return dataclasses.replace(file, stream=Watched(body), size=len(body))

    monkeypatch.setattr(files, "open", open_watched)
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        assert client.fetch(f"{server.url}{BASE}/off.png") == body
    assert readers == {"waitress"}


def test_a_new_photo_changes_the_etag_at_every_server(app: Flask, other: Flask) -> None:
    post(app.test_client())
    etag = get(other, f"{BASE}/off.png").headers["Etag"]
    post(other.test_client(), image=photo_bytes(red=1))
    changed = get(app, f"{BASE}/off.png", If_None_Match=etag)
    assert changed.status_code == 200 and changed.headers["Etag"] != etag


def test_nothing_is_listed_and_nothing_else_is_served(app: Flask, s3: S3Server) -> None:
    post(app.test_client())
    bucket = urlsplit(str(site_of(app).settings.results_url)).netloc
    for key in ("secret.txt", "results/secret.txt", "results/job-1/secret.txt"):
        s3.client().put_object(Bucket=bucket, Key=key, Body=b"secret")
    for path in (
        "", "/", "/job-1", "/job-1/", "/job-1/.job.json", "/job-1/secret.txt", "/../secret.txt", "/.recipes",
        "/.recipes/", "/job-1/..%2f..%2fsecret.txt", "//etc/passwd", "/nobody/off.png", "/job-1/off.png/",
    ):  # fmt: skip
        answer = app.test_client().get(f"/static/inference{path}", buffered=True, follow_redirects=True)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found"), path


def test_signed_addresses_hold_at_every_server(make_app: Callable[..., Flask], settings: Settings) -> None:
    signed = settings.replace(sign_urls=True, secret_key="k" * 16)
    app, other = make_app(FakeEngine(), signed), make_app(FakeEngine(), signed)
    address = urlsplit(post(app.test_client()).json["result"]["input_image_url"])
    assert get(other, f"{address.path}?{address.query}").status_code == 200
    assert get(other, address.path).json["code"] == "bad_signature"


# Jobs


def test_a_job_under_way_is_known_at_every_server(make_app: Callable[..., Flask], other: Flask) -> None:
    manual = FakeEngine(manual=True)
    app = make_app(manual)
    with ThreadPoolExecutor(1) as pool:
        answer = later(pool, app, colors="red,blue")
        render = manual.wait_for(1)
        wait_until(lambda: get(other, "/jobs/job-1").status_code == 200)
        seen = get(other, "/jobs/job-1").json
        assert (seen["state"], list(seen["colors"])) == ("running", ["red", "blue"])
        render.finish()
        assert answer.result(20).status_code == 200
    assert get(other, "/jobs/job-1").json == get(app, "/jobs/job-1").json
    assert get(app, "/jobs/job-1").json["state"] == "completed"


def test_a_job_whose_server_crashed_is_said_to_be_interrupted_soon_and_can_be_asked_for_again(
    make_app: Callable[..., Flask], other: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumiply.server.presence.LOST", timedelta(seconds=3))
    monkeypatch.setattr("lumiply.server.presence.PERIOD_S", 0.2)
    app = make_app(FakeEngine(manual=True))
    with ThreadPoolExecutor(1) as pool:
        answer = later(pool, app)
        wait_until(lambda: get(other, "/jobs/job-1").status_code == 200)
        wait_until(lambda: get(other, "/jobs/job-1").json["state"] == "running")
        presence = site_of(app).store._presence
        assert presence is not None
        presence._closed.set()  # as if its process had been killed: no sign, and none taken back
        wait_until(lambda: get(other, "/jobs/job-1").json["state"] == "failed")
        seen = get(other, "/jobs/job-1").json["colors"]["red"]
        assert seen["error"]["code"] == "interrupted"
        assert post(other.test_client()).status_code == 200
        site_of(app).close(0)
        assert answer.result(20).status_code in (409, 503)
    assert get(other, "/jobs/job-1").json["state"] == "completed"


def test_a_job_deleted_at_another_server_does_not_come_back(
    make_app: Callable[..., Flask], other: Flask, s3: S3Server
) -> None:
    manual = FakeEngine(manual=True)
    app = make_app(manual)
    with ThreadPoolExecutor(1) as pool:
        answer = later(pool, app)
        render = manual.wait_for(1)
        wait_until(lambda: get(other, "/jobs/job-1").status_code == 200)
        deleted = other.test_client().delete("/jobs/job-1")
        assert (deleted.status_code, deleted.json["state"]) == (200, "cancelled")
        render.finish()
        assert (answer.result(20).status_code, answer.result().json["code"]) == (409, "cancelled")
    for server in (app, other):
        assert get(server, "/jobs/job-1").json["code"] == "unknown_job"
        assert get(server, f"{BASE}/off.png").status_code == 404
    assert stored(app, s3) == []


def test_deleting_a_stored_job_removes_its_objects(app: Flask, other: Flask, s3: S3Server) -> None:
    post(app.test_client())
    assert other.test_client().delete("/jobs/job-1").status_code == 200
    assert get(app, f"{BASE}/off.png").status_code == 404
    assert stored(app, s3) == []


# Failures


def everything_asked(app: Flask) -> list[tuple[int, str | None, str | None]]:
    """(status, code, Retry-After) of each request that needs the results."""
    client = app.test_client()
    answers = [
        post(client),
        client.get("/jobs/job-1"),
        client.delete("/jobs/job-1"),
        get(app, f"{BASE}/off.png"),
    ]
    return [(a.status_code, (a.json or {}).get("code"), a.headers.get("Retry-After")) for a in answers]


def test_an_s3_server_that_is_away_is_503_and_all_is_well_once_it_is_back(
    app: Flask, engine: FakeEngine, s3: S3Server
) -> None:
    post(app.test_client())
    s3.stop()
    try:
        assert everything_asked(app) == [(503, "storage_unavailable", "10")] * 4
        assert app.test_client().get("/health").status_code == 200
        finding = check_bucket(str(site_of(app).settings.results_url))
        assert finding.state == "problem" and "AWS_ENDPOINT_URL_S3" in finding.remedy
    finally:
        s3.start()
    assert post(app.test_client(), color="blue").status_code == 200
    assert get(app, f"{BASE}/off.png").status_code == 200
    assert len(engine.renders) == 1
    assert check_bucket(str(site_of(app).settings.results_url)).state == "ok"


def test_an_s3_server_that_goes_away_while_it_renders_is_503_and_the_next_try_succeeds(
    make_app: Callable[..., Flask], s3: S3Server
) -> None:
    manual = FakeEngine(manual=True)
    app = make_app(manual)
    with ThreadPoolExecutor(1) as pool:
        answer = later(pool, app)
        render = manual.wait_for(1)
        wait_until(lambda: get(app, "/jobs/job-1").status_code == 200)
        s3.stop()
        try:
            render.finish()
            assert (answer.result(30).status_code, answer.result().json["code"]) == (
                503,
                "storage_unavailable",
            )
        finally:
            s3.start()
        manual.manual = False
        assert post(app.test_client()).status_code == 200
    assert site_of(app).jobs._claims.is_empty


def test_a_bucket_that_is_not_there_is_503_until_it_is_made(
    make_app: Callable[..., Flask], s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(FakeEngine(), Settings(results_url="s3://not-made-yet/here", port=0))
    assert post(app.test_client()).json["code"] == "storage_unavailable"
    assert (
        "results_url=s3://not-made-yet/here cannot be used" in caplog.text
        and "Make that bucket" in caplog.text
    )
    s3.client().create_bucket(Bucket="not-made-yet")
    assert post(app.test_client()).status_code == 200


@pytest.mark.parametrize(
    ("methods", "status", "code", "seen", "said"),
    [
        (("PUT",), 403, "AccessDenied", (503, "storage_unavailable"), "credentials that may list"),
        (("GET", "HEAD"), 403, "InvalidAccessKeyId", (503, "storage_unavailable"), "AWS_ACCESS_KEY_ID"),
        (("PUT",), 507, "XMinioStorageFull", (507, "storage_full"), ""),
        (("PUT",), 503, "SlowDown", (503, "storage_unavailable"), "can be reached"),
    ],
)
def test_refusals_are_named_and_end_with_their_cause(
    app: Flask, engine: FakeEngine, s3: S3Server, caplog: pytest.LogCaptureFixture,
    methods: tuple[str, ...], status: int, code: str, seen: tuple[int, str], said: str,
) -> None:  # fmt: skip
    from tests.s3 import refusal

    def refuse(request: Request) -> Response | None:
        return refusal(status, code) if request.method in methods else None

    s3.rule = refuse
    answer = post(app.test_client())
    assert (answer.status_code, answer.json["code"]) == seen
    assert said in caplog.text and code not in answer.json["error"]
    wait_until(lambda: all(render.future.done() for render in engine.renders))
    s3.rule = lambda request: None
    assert post(app.test_client()).status_code == 200


def test_no_credentials_are_named(
    app: Flask, s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert post(app.test_client()).json["code"] == "storage_unavailable"
    assert "AWS_ACCESS_KEY_ID" in caplog.text


# Settings


@pytest.mark.parametrize(
    "url",
    ["bucket/prefix", "s3:bucket", "s3://", "://x", "s3://a b", "sftp://me:secret@host/x", "s3://a?b=c"],
)
def test_what_is_no_url_of_results_stops_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="without a password, such as s3://bucket/prefix"):
        Settings(results_url=url)


def test_a_url_given_as_a_folder_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="results_dir must be the path of a folder"):
        Settings(results_dir="s3://bucket/prefix")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"results_dir": "here"}, "results live in one place"),
        ({"sign_urls": True}, "LUMIPLY_SECRET_KEY"),
        ({"callback_hosts": "a.example"}, "LUMIPLY_SECRET_KEY"),
    ],
)
def test_settings_that_contradict_a_url_stop_the_start(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        Settings(results_url="s3://bucket/prefix", **values)
