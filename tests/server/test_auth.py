"""The token, signed addresses, other origins, and proxies."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from lumiply import files
from lumiply.errors import SettingsError
from lumiply.server import auth
from lumiply.settings import Settings
from tests.fakes import PATIENCE_S, FakeEngine
from tests.server.conftest import post

TOKEN = "sixteen-or-more-letters"
#: The result's path, without the query that signs it.
RED = "/static/inference/job-1/output_red.jpg"


@pytest.fixture
def guarded(make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings) -> FlaskClient:
    return make_app(engine, settings.replace(token=TOKEN)).test_client()


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (f"?token={TOKEN}", {}),
        ("", {"Authorization": f"Bearer {TOKEN}"}),
        ("", {"Authorization": f"bearer {TOKEN}"}),
        ("", {"X-API-Key": TOKEN}),
        ("?token=wrong", {"X-API-Key": TOKEN}),
    ],
)
def test_the_token_may_come_in_three_ways(guarded: FlaskClient, query: str, headers: dict[str, str]) -> None:
    assert guarded.get(f"/jobs/nobody{query}", headers=headers).status_code == 404
    assert guarded.get(f"/metrics{query}", headers=headers).status_code == 200
    assert guarded.post(f"/process{query}", headers=headers).json["code"] == "missing_image"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("?token=", {}),
        (f"?token={TOKEN}x", {}),
        (f"?token={TOKEN[:-1]}", {}),
        ("?token=%ff%00", {}),
        ("", {"Authorization": f"Basic {TOKEN}"}),
        ("", {"Authorization": TOKEN}),
        ("", {"X-API-Key": "작업".encode().decode("latin-1")}),
    ],
)
@pytest.mark.parametrize(
    "call", [("post", "/process"), ("get", "/jobs/a"), ("delete", "/jobs/a"), ("get", "/metrics")]
)
def test_without_it_nothing_is_told(
    guarded: FlaskClient, call: tuple[str, str], query: str, headers: dict[str, str]
) -> None:
    method, path = call
    answer = getattr(guarded, method)(path + query, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_tokens_are_compared_in_constant_time(guarded: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    guarded.get("/metrics?token=wrong")
    assert (b"wrong", TOKEN.encode()) in compared


def test_health_ready_and_results_need_no_token(guarded: FlaskClient) -> None:
    assert guarded.get("/health?token=wrong").status_code == 200
    assert guarded.get("/ready").status_code == 200
    assert post(guarded, headers={"X-API-Key": TOKEN}).status_code == 200
    assert guarded.get(RED, buffered=True).status_code == 200


def test_the_gateways_health_check_of_a_url_with_a_token(guarded: FlaskClient) -> None:
    webhook = f"http://localhost/process?token={TOKEN}"
    assert guarded.get(webhook.replace("/process", "/health")).status_code == 200


def test_a_made_token_is_long_and_never_the_same() -> None:
    made = {auth.new_token() for _ in range(50)}
    assert len(made) == 50 and all(len(token) >= 32 for token in made)
    Settings(token=made.pop())


def test_no_auth_and_a_token_contradict() -> None:
    with pytest.raises(SettingsError, match="contradict"):
        Settings(auth="none", token=TOKEN)
    with pytest.raises(SettingsError) as caught:
        Settings(token="short")
    assert "short" not in str(caught.value)


@pytest.fixture
def signed(make_app: Callable[..., Flask], engine: FakeEngine, settings: Settings) -> FlaskClient:
    return make_app(engine, settings.replace(sign_urls=True, token=TOKEN)).test_client()


def test_signed_addresses_open_and_others_do_not(signed: FlaskClient) -> None:
    result = post(signed, headers={"X-API-Key": TOKEN}).json["result"]
    url = urlsplit(result["images"]["red"])
    assert (url.path, url.query.partition("=")[0]) == (RED, "sig")
    signature = url.query.partition("=")[2]
    assert signed.get(f"{url.path}?{url.query}", buffered=True).status_code == 200
    assert signed.get(
        urlsplit(result["input_image_url"])._replace(scheme="", netloc="").geturl(), buffered=True
    ).data
    for query in ("", "?sig=", f"?sig={signature[:-1]}", f"?sig={signature}x", "?sig=%ff"):
        answer = signed.get(RED + query)
        assert (answer.status_code, answer.json["code"]) == (403, "bad_signature")
    assert signed.get(RED.replace("red", "blue") + f"?sig={signature}").status_code == 403
    assert signed.get(RED, headers={"X-API-Key": TOKEN}, buffered=True).status_code == 200


def test_signatures_stay_good_across_restarts(
    signed: FlaskClient, make_app: Callable[..., Flask], settings: Settings
) -> None:
    url = post(signed, headers={"X-API-Key": TOKEN}).json["result"]["images"]["red"]
    restarted = make_app(FakeEngine(), settings.replace(sign_urls=True)).test_client()
    assert restarted.get(url, buffered=True).status_code == 200
    secret = settings.results_dir / ".secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for name in (".secret", ".token"):
        assert restarted.get(f"/static/inference/{name}").status_code == 404
    other = make_app(FakeEngine(), settings.replace(sign_urls=True, secret_key="another-key-of-the-operator"))
    assert other.test_client().get(url).status_code == 403


def test_job_pages_name_signed_addresses(signed: FlaskClient) -> None:
    post(signed, headers={"X-API-Key": TOKEN})
    found = signed.get("/jobs/job-1", headers={"X-API-Key": TOKEN}).json
    assert signed.get(found["colors"]["blue"]["image_url"], buffered=True).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/process"), ("GET", "/jobs/a"), ("DELETE", "/jobs/a"), ("GET", "/metrics")]
)
def test_a_browser_may_ask_without_the_token_whether_a_page_may_bring_it(
    guarded: FlaskClient, method: str, path: str
) -> None:
    asked = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization",
    }
    answer = guarded.options(path, headers=asked)
    assert answer.status_code == 200 and not answer.data
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization"
    assert method in answer.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [("*", "*"), ("https://a.example", "https://a.example"), ("https://b.example", None), ("", None)],
)
def test_origins_are_the_operators_choice(
    make_app: Callable[..., Flask], settings: Settings, origins: str, allowed: str | None
) -> None:
    client = make_app(FakeEngine(), settings.replace(cors_origins=origins)).test_client()
    post(client)
    for path in ("/health", RED):
        answer = client.get(path, headers={"Origin": "https://a.example"}, buffered=True)
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.parametrize(("proxies", "base"), [(0, "http://localhost"), (1, "https://public.example")])
def test_forwarded_headers_are_believed_only_where_told_to(
    make_app: Callable[..., Flask], settings: Settings, proxies: int, base: str
) -> None:
    client = make_app(FakeEngine(), settings.replace(trusted_proxies=proxies)).test_client()
    forwarded = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "public.example",
        "X-Forwarded-For": "203.0.113.9",
    }
    result = post(client, headers=forwarded).json["result"]
    assert result["input_image_url"].startswith(base + "/static")


def test_a_token_is_kept_for_its_owner_alone_and_never_an_empty_one(tmp_path: Path) -> None:
    kept = auth.keep_token(tmp_path / "results")
    path = tmp_path / "results" / ".token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert auth.keep_token(tmp_path / "results") == kept
    for damaged in ("", "short"):
        path.write_text(damaged)
        assert len(auth.keep_token(tmp_path / "results")) >= 32
    (tmp_path / "file").write_text("no folder")
    assert len(auth.keep_token(tmp_path / "file")) >= 32  # nothing can be kept there


def keep_secret(folder: Path) -> str:
    return auth.load_secret(folder, None)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """New files are everyone's to read and write, unless their maker says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("keep", [auth.keep_token, keep_secret])
@pytest.mark.parametrize("damaged", [None, "short"])
def test_what_is_kept_is_its_owners_alone_from_the_first_byte(
    tmp_path: Path,
    open_umask: None,
    monkeypatch: pytest.MonkeyPatch,
    keep: Callable[[Path], str],
    damaged: str | None,
) -> None:
    path = tmp_path / {auth.keep_token: ".token", keep_secret: ".secret"}[keep]
    if damaged is not None:
        path.write_text(damaged)
    others = stat.S_IRWXG | stat.S_IRWXO
    seen: list[tuple[str, int]] = []

    def watch(what: str) -> None:
        real = getattr(os, what)

        def watched(*args: object, **kwargs: object) -> object:
            """Look at every file that holds anything, before and after the call."""
            look()
            result = real(*args, **kwargs)
            look()
            return result

        def look() -> None:
            for file in tmp_path.iterdir():
                if (found := file.stat()).st_size > len(damaged or ""):
                    seen.append((file.name, stat.S_IMODE(found.st_mode)))

        monkeypatch.setattr(files.os, what, watched)

    for what in ("fchmod", "fsync", "replace", "chmod", "open"):
        watch(what)
    kept = keep(tmp_path)
    assert path.read_text() == kept and list(tmp_path.iterdir()) == [path]
    assert {name for name, _ in seen} > {path.name}  # it was seen under its first name as well
    assert [mode & others for _, mode in seen] == [0] * len(seen)


@pytest.mark.parametrize("keep", [auth.keep_token, keep_secret])
@pytest.mark.parametrize("damaged", [None, "short"])
def test_servers_that_start_at_once_keep_one_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Callable[[Path], str], damaged: str | None
) -> None:
    if damaged is not None:
        for name in (".token", ".secret"):
            (tmp_path / name).write_text(damaged)
    makes, second_waits = threading.Event(), threading.Event()
    real_make, real_lock = auth.secrets.token_urlsafe, files.fcntl.flock

    def make(size: int) -> str:
        makes.set()
        assert second_waits.wait(PATIENCE_S), "the second did not wait for the first"
        return real_make(size)

    def lock(handle: int, how: int) -> None:
        if makes.is_set():
            second_waits.set()  # and now it does
        real_lock(handle, how)

    monkeypatch.setattr(auth.secrets, "token_urlsafe", make)
    monkeypatch.setattr(files.fcntl, "flock", lock)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(keep, tmp_path)
        assert makes.wait(PATIENCE_S)
        second = pool.submit(keep, tmp_path)
        assert first.result(PATIENCE_S) == second.result(PATIENCE_S) == keep(tmp_path)


def test_where_the_disk_knows_no_locks_a_token_is_kept_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(handle: int, how: int) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(files.fcntl, "flock", lock)
    kept = auth.keep_token(tmp_path)
    assert (tmp_path / ".token").read_text() == kept == auth.keep_token(tmp_path)
    assert stat.S_IMODE((tmp_path / ".token").stat().st_mode) == 0o600
