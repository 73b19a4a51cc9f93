"""`/static/inference`: the results, and nothing but the results."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.http import http_date

from lumiply.settings import Settings
from tests.fakes import photo_bytes
from tests.server.conftest import post

BASE = "/static/inference"


@pytest.fixture
def served(client: FlaskClient) -> FlaskClient:
    assert post(client).status_code == 200
    return client


@pytest.mark.parametrize(("name", "type"), [("off.png", "image/png"), ("output_red.jpg", "image/jpeg")])
def test_results_have_their_type_and_may_be_kept(served: FlaskClient, name: str, type: str) -> None:
    answer = served.get(f"{BASE}/job-1/{name}?anything=1", buffered=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == type
    assert answer.headers["Cache-Control"] == "max-age=0, public"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert int(answer.headers["Content-Length"]) == len(answer.data)


def test_an_unchanged_result_costs_a_304(served: FlaskClient) -> None:
    etag = served.get(f"{BASE}/job-1/off.png", buffered=True).headers["Etag"]
    again = served.get(f"{BASE}/job-1/off.png", buffered=True, headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")


def test_head_sends_no_body(served: FlaskClient) -> None:
    answer = served.head(f"{BASE}/job-1/off.png", buffered=True)
    assert (answer.status_code, answer.data) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["", "/", "/job-1", "/job-1/", "/job-1/.job.json", "/job-1/../job-1/.job.json", "/job-1/output_pink.jpg",
     "/job-1/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/job-1/..%2f..%2fsecret.txt", "//etc/passwd",
     "/job-1//off.png", "/job-1/off.png/", "/job-1/%00off.png", "/nobody/off.png", "/.hidden/off.png",
     "/job-1/OFF.PNG", "/" + "x" * 5000 + "/off.png"],
)  # fmt: skip
def test_everything_else_is_not_found(
    served: FlaskClient, settings: Settings, tmp_path: Path, path: str
) -> None:
    for folder in (tmp_path, settings.results_dir, settings.results_dir / "job-1"):
        (folder / "secret.txt").write_text("secret")
    (settings.results_dir / ".hidden").mkdir()
    (settings.results_dir / ".hidden" / "off.png").write_text("secret")
    answer = served.get(BASE + path, buffered=True, follow_redirects=True)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_results_cannot_be_posted_to(served: FlaskClient) -> None:
    assert served.post(f"{BASE}/job-1/off.png").status_code == 405


def test_parts_of_a_result_may_be_asked_for(served: FlaskClient) -> None:
    whole = served.get(f"{BASE}/job-1/off.png", buffered=True)
    assert whole.headers["Accept-Ranges"] == "bytes"
    part = served.get(f"{BASE}/job-1/off.png", buffered=True, headers={"Range": "bytes=2-9"})
    assert (part.status_code, part.data) == (206, whole.data[2:10])
    assert part.headers["Content-Range"] == f"bytes 2-9/{len(whole.data)}"
    rest = served.get(
        f"{BASE}/job-1/off.png",
        buffered=True,
        headers={"Range": "bytes=-5", "If-Range": whole.headers["Etag"]},
    )
    assert (rest.status_code, rest.data) == (206, whole.data[-5:])
    changed = served.get(
        f"{BASE}/job-1/off.png", buffered=True, headers={"Range": "bytes=-5", "If-Range": '"other"'}
    )
    assert (changed.status_code, changed.data) == (200, whole.data)


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=5-2", "bytes=x", "bytes=0-1,5-9"])
def test_ranges_that_a_result_does_not_have_are_416_or_ignored(served: FlaskClient, asked: str) -> None:
    answer = served.get(f"{BASE}/job-1/off.png", buffered=True, headers={"Range": asked})
    assert answer.status_code in (200, 416)
    if answer.status_code == 416:
        assert answer.json["code"] == "range_not_satisfiable"


def test_a_new_photo_changes_the_etag_and_the_old_one_no_longer_saves_a_download(served: FlaskClient) -> None:
    etag = served.get(f"{BASE}/job-1/off.png", buffered=True).headers["Etag"]
    post(served, image=photo_bytes(red=1))
    again = served.get(f"{BASE}/job-1/off.png", buffered=True, headers={"If-None-Match": etag})
    assert again.status_code == 200 and again.headers["Etag"] != etag


def test_no_date_saves_a_download_as_a_picture_may_be_followed_by_an_older_one(served: FlaskClient) -> None:
    post(served, job_id="job-2", image=photo_bytes(red=1))
    former = served.get(f"{BASE}/job-2/off.png", buffered=True)
    post(served, job_id="job-2")  # job-1's, which is older
    tomorrow = http_date(time.time() + 86_400)
    again = served.get(f"{BASE}/job-2/off.png", buffered=True, headers={"If-Modified-Since": tomorrow})
    assert again.status_code == 200 and again.data != former.data
    assert "Last-Modified" not in again.headers
