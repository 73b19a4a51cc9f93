"""`/static/inference`: the results, and nothing but the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from lumiply.settings import Settings
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
