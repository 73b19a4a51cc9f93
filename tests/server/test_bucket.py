"""Jobs in a bucket, or behind another URL: the same guarantees as in a folder, for several servers at once."""

from __future__ import annotations

import itertools
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lumiply.errors import CancelledError, ReplacedError, SettingsError, StorageUnavailableError
from lumiply.server.metrics import Metrics
from lumiply.server.names import PHOTO_NAME, RECORD_NAME, output_name
from lumiply.server.record import Failure, Recipe
from lumiply.server.retention import Sweeper
from lumiply.server.storage import Storage
from lumiply.server.store import JobStore
from tests.fakes import PATIENCE_S, wait_until
from tests.server.conftest import needs_fsspec

if TYPE_CHECKING:
    from werkzeug.wrappers import Request, Response

    from tests.s3 import S3Server

pytestmark = needs_fsspec

ROOT = Path(__file__).parents[2]
DAY = 86_400.0
RECIPE = Recipe(photo="p1", seed=1, steps=2, preset="", jpeg_quality=95, engine="e")
OTHER = replace(RECIPE, photo="p2")
FILES = {PHOTO_NAME: b"photo", output_name("red"): b"red", output_name("blue"): b"blue"}


def open_store(url: str) -> JobStore:
    """As another server on another machine has it."""
    from lumiply.server.bucket import BucketStorage

    return JobStore(BucketStorage(url), render_s=60)


@pytest.fixture(params=["s3", "file", "memory", "renamed"])
def url(
    request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A place of each kind; "renamed" is one of which nothing is known, so that files are renamed into place."""
    if request.param == "renamed":
        monkeypatch.setattr("lumiply.server.bucket.WHOLE", frozenset())
    if request.param == "s3":
        yield s3.new_url()
    elif request.param == "file":
        yield f"file://{tmp_path}/results"
    else:
        yield f"memory://results-{uuid.uuid4().hex}"


@pytest.fixture
def store(url: str) -> JobStore:
    return open_store(url)


def content(store: JobStore, job_id: str, name: str) -> bytes | None:
    """What is served."""
    try:
        with store.open_file(job_id, name).stream as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def keys(store: JobStore) -> set[str]:
    """All that stands under the URL, relative to it, but for signs of life."""
    found = store.files._find(store.files._root)  # type: ignore[attr-defined]
    names = {key.removeprefix(store.files._root).strip("/") for key in found}  # type: ignore[attr-defined]
    return {name for name in names if not name.startswith(".servers/")}


def test_what_one_server_stored_another_finds(store: JobStore, url: str) -> None:
    assert store.begin("a", RECIPE, ["red", "blue", "green"])
    assert store.publish("a", RECIPE, FILES, begun=True)
    store.fail("a", RECIPE, ["green"], Failure("render_failed", "x"))
    other = open_store(url)
    other.open()
    record = other.record("a")
    assert record is not None
    assert record.files == {name: len(data) for name, data in FILES.items()}
    assert (set(record.failures), record.pending) == ({"green"}, ())
    assert other.colors_of("a", RECIPE) == {"red", "blue"}
    assert {name: content(other, "a", name) for name in FILES} == FILES
    assert content(other, "a", output_name("green")) is content(other, "b", PHOTO_NAME) is None


def test_another_photo_takes_the_job_over_and_nothing_of_the_first_stays(store: JobStore) -> None:
    store.publish("a", RECIPE, FILES)
    store.publish("a", OTHER, {PHOTO_NAME: b"other", output_name("red"): b"other red"})
    assert (store.colors_of("a", RECIPE), store.colors_of("a", OTHER)) == (frozenset(), {"red"})
    assert content(store, "a", PHOTO_NAME) == b"other"
    assert len(keys(store)) == 4  # the record, two files, and the note on the recipe


def test_another_job_takes_over_what_another_server_made(store: JobStore, url: str) -> None:
    other = open_store(url)
    other.open()
    store.publish("a", RECIPE, FILES)
    assert other.adopt("b", RECIPE, ["red", "green"])
    assert (other.colors_of("b", RECIPE), content(other, "b", output_name("red"))) == ({"red"}, b"red")
    store.remove("a")
    assert content(store, "b", output_name("red")) == b"red"
    assert not other.adopt("c", OTHER, ["red"])


def test_a_note_on_files_that_are_gone_misleads_nobody_and_goes(store: JobStore) -> None:
    store.files.remember("gone", RECIPE)
    assert not store.adopt("b", RECIPE, ["red"])
    assert keys(store) == set()


def test_a_removed_job_leaves_only_what_is_not_ours(store: JobStore, url: str) -> None:
    import fsspec

    store.publish("a", RECIPE, FILES)
    store.publish("ab", RECIPE, FILES)
    with fsspec.open(f"{url}/a/notes.txt", "wb") as file:
        file.write(b"mine")
    open_store(url).remove("a")
    assert {key for key in keys(store) if key.startswith("a/")} == {"a/notes.txt"}
    assert store.colors_of("ab", RECIPE) == {"red", "blue"}
    assert store.files.makers(RECIPE) == {"ab"}
    store.remove("a")  # again, and of one that never was
    store.remove("nobody")


@pytest.mark.parametrize("url", ["file", "memory"], indirect=True)
def test_a_server_that_dies_at_any_write_leaves_only_what_is_whole(
    store: JobStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(real: Callable[..., None], left: list[int]) -> Callable[..., None]:
        def act(self: Storage, what: Any) -> None:
            for one in list(what):  # one after the other, so that it may die between two
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                real(self, {one: what[one]} if isinstance(what, dict) else [one])

        return act

    new = {PHOTO_NAME: b"other", output_name("red"): b"other red"}
    kind, reached_the_end = type(store.files), False
    for step in itertools.count():
        job_id, left = f"job-{step}", [step]
        store.publish(job_id, RECIPE, FILES)
        with monkeypatch.context() as patch:
            for name in ("_put", "_remove"):
                patch.setattr(kind, name, dying(getattr(kind, name), left))
            try:
                store.begin(job_id, OTHER, ["red"])
                store.publish(job_id, OTHER, new, begun=True)
                reached_the_end = True
            except Killed:
                pass
        after = open_store(url)
        after.open()
        record = after.record(job_id)
        assert record is not None
        whole = {RECIPE: FILES, OTHER: new, None: {}}[record.recipe]
        assert {name: content(after, job_id, name) for name in record.files} == {
            name: whole[name] for name in record.files
        }
        assert after.publish(job_id, OTHER, new)  # and what it did not do can be done
        assert {name: content(after, job_id, name) for name in FILES} == {output_name("blue"): None, **new}
        if reached_the_end:
            break
    assert step > 6


def test_two_servers_that_write_one_job_at_once_never_mix_their_pictures(store: JobStore, url: str) -> None:
    servers, start = [store, open_store(url)], threading.Barrier(2)
    recipes = [replace(RECIPE, photo=f"of {number}") for number in range(2)]

    def write(number: int) -> None:
        mine = str(number).encode()
        for _ in range(8):
            start.wait(PATIENCE_S)
            servers[number].publish("a", recipes[number], {name: mine for name in FILES})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    record = open_store(url).record("a")
    assert record is not None and record.recipe in (*recipes, None)
    if record.recipe is not None:
        mine = str(recipes.index(record.recipe)).encode()
        assert {content(store, "a", name) for name in record.files} <= {mine}
    assert servers[0].publish("a", RECIPE, FILES)
    assert {name: content(servers[1], "a", name) for name in FILES} == FILES


def test_no_picture_is_lost_to_a_record_that_was_written_at_the_same_time(store: JobStore, url: str) -> None:
    store.publish("a", RECIPE, {PHOTO_NAME: b"photo", output_name("red"): b"red"})
    stale = store.files.record("a")
    open_store(url).publish("a", RECIPE, {PHOTO_NAME: b"photo", output_name("blue"): b"blue"})
    store.files.write_record("a", stale)
    assert store.colors_of("a", RECIPE) == {"red", "blue"}


def test_what_another_server_deleted_or_took_over_is_not_brought_back(store: JobStore, url: str) -> None:
    other = open_store(url)
    for job_id in ("deleted", "taken"):
        store.begin(job_id, RECIPE, ["red"])
    other.remove("deleted")
    other.begin("taken", OTHER, ["red"])
    with pytest.raises(CancelledError, match="삭제"):
        store.publish("deleted", RECIPE, FILES, begun=True)
    with pytest.raises(ReplacedError):
        store.publish("taken", RECIPE, FILES, begun=True)
    assert keys(store) == {f"taken/{RECORD_NAME}"}


def test_a_server_knows_what_runs_on_another_until_that_must_have_ended(store: JobStore, url: str) -> None:
    store.begin("a", RECIPE, ["red"])
    other = open_store(url)
    record = other.record("a")
    assert record is not None
    assert other.runs_elsewhere(record) and not store.runs_elsewhere(record)
    record.begun = "2026-01-01T00:00:00.000+00:00"
    assert not other.runs_elsewhere(record)  # that server has died
    store.publish("a", RECIPE, {PHOTO_NAME: b"photo", output_name("red"): b"red"})
    assert not other.runs_elsewhere(other.record("a"))  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["s3", "file"], indirect=True)
def test_a_server_that_gives_no_more_signs_of_life_has_died(
    store: JobStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumiply.server.presence.LOST", timedelta(seconds=3))  # S3 counts whole seconds
    monkeypatch.setattr("lumiply.server.presence.PERIOD_S", 0.2)
    crashed, alive, other = open_store(url), open_store(url), open_store(url)
    for job_id, server in (("lost", crashed), ("runs", alive)):
        server.begin(job_id, RECIPE, ["red"])
    records = {job_id: other.record(job_id) for job_id in ("lost", "runs")}
    for server in (alive, other):  # the other one never gives a sign again
        server.start()
    try:
        wait_until(lambda: all(other.runs_elsewhere(record) for record in records.values() if record))
        wait_until(lambda: not other.runs_elsewhere(records["lost"]))  # type: ignore[arg-type]
        wait_until(lambda: other.runs_elsewhere(records["runs"]))  # type: ignore[arg-type]
        alive.close()  # in order: at once
        assert not other.runs_elsewhere(records["runs"])  # type: ignore[arg-type]
    finally:
        for server in (alive, other):
            server.close()
    crashed.close()
    assert other.files.signs_of_life() == {}  # type: ignore[attr-defined]


def test_signs_of_servers_that_are_long_gone_are_removed(
    store: JobStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin("a", RECIPE, ["red"])
    monkeypatch.setattr("lumiply.server.presence.FORGOTTEN", timedelta(seconds=-1))
    other = open_store(url)
    other.start()
    wait_until(lambda: other.files.signs_of_life() == {})  # type: ignore[attr-defined]
    other.close()


def sweep(store: JobStore, days: float = 0, gigabytes: float = 0, later: float = 0) -> list[str]:
    sweeper = Sweeper(store, Metrics(), lambda job_id: False, days=days, gigabytes=gigabytes)
    return sweeper.sweep(time.time() + later * DAY)


def test_old_jobs_go_and_never_one_that_runs_on_another_server(store: JobStore, url: str) -> None:
    other = open_store(url)
    for job_id in ("a", "b", "running"):
        store.publish(job_id, RECIPE, FILES)
    other.begin("running", OTHER, ["red"])
    assert sweep(store, days=1) == []
    assert set(sweep(store, days=1, later=2)) == {"a", "b"}
    assert {key.partition("/")[0] for key in keys(store)} == {"running", ".recipes"}
    assert store.files.makers(RECIPE) == {"running"}


def test_too_many_bytes_go_the_oldest_first(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_number(info: dict[str, Any]) -> datetime:  # S3 counts whole seconds, and all were written in one
        return datetime(2026, 1, 1 + int(re.search(r"job-(\d)", info["name"])[1]), tzinfo=timezone.utc)  # type: ignore[index]

    for number in range(4):
        store.publish(f"job-{number}", RECIPE, {PHOTO_NAME: bytes(10_000)})
    before = time.time()
    assert all(before - 60 < stock.updated < before + 60 for stock in store.stock())
    monkeypatch.setattr("lumiply.server.bucket._modified", by_number)
    assert sweep(store, gigabytes=25_000e-9) == ["job-0", "job-1"]
    assert sorted(stock.job_id for stock in store.stock()) == ["job-2", "job-3"]


# On S3 alone


def test_a_process_killed_while_it_stores_leaves_a_job_without_pictures(s3: S3Server) -> None:
    from tests.s3 import refusal

    url = s3.new_url()
    program = (
        "import sys; from tests.server.test_bucket import *\n"
        "open_store(sys.argv[1]).publish('a', RECIPE, FILES)"
    )
    arrived, let_go = threading.Event(), threading.Event()

    def hold(request: Request) -> Response | None:
        if request.method != "PUT" or not request.path.endswith(RECORD_NAME):
            return None
        arrived.set()
        let_go.wait(PATIENCE_S)
        return refusal(400, "RequestTimeout")  # as of a body that never came

    s3.rule = hold
    writer = subprocess.Popen(
        [sys.executable, "-c", program, url],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **s3.environment},
    )  # fmt: skip
    try:
        assert arrived.wait(60)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(PATIENCE_S)
        let_go.set()
    s3.rule = lambda request: None
    store = open_store(url)
    store.open()
    assert any(key.endswith(PHOTO_NAME) for key in keys(store))  # it had come that far
    assert store.record("a") is None
    assert [content(store, "a", name) for name in FILES] == [None] * 3
    assert store.colors_of("a", RECIPE) == frozenset()
    assert store.publish("a", RECIPE, FILES)
    assert {name: content(store, "a", name) for name in FILES} == FILES


def test_a_server_that_never_answers_is_given_up(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumiply.server.bucket.LIMIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = open_store("s3://bucket/results")
        actions: list[Callable[[], object]] = [
            lambda: store.record("a"),
            lambda: store.files.write_record("a", b"{}"),
            lambda: list(store.stock()),
            lambda: store.remove("a"),
        ]
        for action in actions:
            with pytest.raises(StorageUnavailableError, match="no answer within 0.3 s"):
                action()


def test_a_url_of_which_nothing_can_be_made_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"results_url=nosuch://place cannot be used.*pip install"):
        open_store("nosuch://place")
