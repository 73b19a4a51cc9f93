"""What is on disk counts when its record says so, survives crashes, and goes when it is old."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from lumiply.server.metrics import Metrics
from lumiply.server.names import PHOTO_NAME, RECORD_NAME, output_name
from lumiply.server.record import Failure, JobRecord, Recipe
from lumiply.server.retention import Sweeper
from lumiply.server.store import JobStore

RECIPE = Recipe(photo="p1", seed=1, steps=2, preset="", jpeg_quality=95, engine="e")
OTHER = replace(RECIPE, photo="p2")
FILES = {
    PHOTO_NAME: b"photo",
    output_name("red"): b"red",
    output_name("blue"): b"blue",
}


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "inference")


def folder_of(store: JobStore, job_id: str) -> Path:
    return store.files.folder(job_id)  # type: ignore[attr-defined]


def reopened(store: JobStore) -> JobStore:
    again = JobStore(store.files.root)
    again.open()
    return again


def test_a_record_reads_back_as_it_was_written() -> None:
    record = JobRecord("a", "2026-01-01", "2026-01-02", RECIPE, {"off.png": 3}, OTHER, ("red",))
    record.failures = {"blue": Failure("busy", "나중에")}
    assert JobRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": 2}', b"\xff\xfe"])
def test_what_is_no_record_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        JobRecord.from_json(data)


def test_what_was_under_way_is_known_after_a_restart(store: JobStore) -> None:
    store.begin("a", RECIPE, ["red", "blue"])
    record = reopened(store).record("a")
    assert record is not None
    assert (record.asked, record.pending, record.files) == (RECIPE, ("red", "blue"), {})


def test_what_came_and_what_failed_is_no_longer_under_way(store: JobStore) -> None:
    store.begin("a", RECIPE, ["red", "green"])
    store.publish("a", RECIPE, FILES)
    store.fail("a", RECIPE, ["green", "white"], Failure("render_failed", "x"))
    record = store.record("a")
    assert record is not None and record.pending == ()
    assert set(record.failures) == {"green"}  # white was never asked for
    assert store.colors_of("a", RECIPE) == {"red", "blue"}


def test_more_colours_join_those_that_are_there_which_stay_untouched(store: JobStore) -> None:
    store.publish("a", RECIPE, FILES)
    before = (folder_of(store, "a") / PHOTO_NAME).stat().st_ino
    store.publish("a", RECIPE, {PHOTO_NAME: b"photo", output_name("green"): b"green"})
    assert store.colors_of("a", RECIPE) == {"red", "green", "blue"}
    assert (folder_of(store, "a") / PHOTO_NAME).stat().st_ino == before


def test_another_recipe_takes_the_places_of_the_former(store: JobStore) -> None:
    store.publish("a", RECIPE, FILES)
    store.publish("a", OTHER, {PHOTO_NAME: b"other", output_name("red"): b"other red"})
    assert store.colors_of("a", RECIPE) == frozenset()
    assert store.colors_of("a", OTHER) == {"red"}
    assert not (folder_of(store, "a") / output_name("blue")).exists()


def test_a_replacement_that_dies_half_way_leaves_nothing_that_counts(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a", RECIPE, FILES)

    class Killed(BaseException):
        pass

    real, seen = os.replace, []

    def dies_at_the_second_file(source: object, target: Path) -> None:
        seen.append(Path(target).name)
        if seen.count(RECORD_NAME) == 1 and len(seen) == 3:
            monkeypatch.setattr(
                Path, "unlink", lambda *args, **kwargs: None
            )  # a dead process cleans nothing up
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", dies_at_the_second_file)
    with pytest.raises(Killed):
        store.publish("a", OTHER, {PHOTO_NAME: b"other", output_name("red"): b"other red"})
    monkeypatch.undo()
    assert any(path.suffix == ".part" for path in folder_of(store, "a").iterdir())
    again = reopened(store)
    assert again.colors_of("a", RECIPE) == again.colors_of("a", OTHER) == frozenset()
    assert [path.name for path in folder_of(again, "a").iterdir()] == [RECORD_NAME]


def test_opening_sweeps_leftovers_and_leaves_folders_that_are_not_ours(store: JobStore) -> None:
    store.publish("a", RECIPE, FILES)
    (folder_of(store, "a") / ".off.png.x.part").write_bytes(b"half")
    (folder_of(store, "a") / output_name("green")).write_bytes(b"unnamed")
    old = folder_of(store, "from-before")
    old.mkdir()
    (old / output_name("red")).write_bytes(b"old")
    reopened(store)
    assert {path.name for path in folder_of(store, "a").iterdir()} == {RECORD_NAME, *FILES}
    assert (old / output_name("red")).read_bytes() == b"old"


def test_a_job_whose_leftovers_cannot_be_removed_does_not_keep_others_from_being_known(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    for job_id in ("a", "b", "c"):
        store.publish(job_id, replace(RECIPE, photo=job_id), FILES)
        (folder_of(store, job_id) / ".off.png.x.part").mkdir()  # which no file's removal removes
    files = reopened(store).files
    assert [files.makers(replace(RECIPE, photo=job_id)) for job_id in "abc"] == [{"a"}, {"b"}, {"c"}]
    assert len(caplog.messages) == 3 and "job a: what a crash left was not removed" in min(caplog.messages)


def test_another_job_takes_over_what_is_there_without_copying(store: JobStore) -> None:
    store.publish("a", RECIPE, FILES)
    again = reopened(store)
    assert again.adopt("b", RECIPE, ["red", "green"])
    assert again.colors_of("b", RECIPE) == {"red"}
    assert (folder_of(again, "b") / output_name("red")).samefile(folder_of(again, "a") / output_name("red"))
    assert not again.adopt("c", OTHER, ["red"])


def test_what_one_job_loses_the_other_keeps(store: JobStore) -> None:
    store.publish("a", RECIPE, FILES)
    store.adopt("b", RECIPE, ["red"])
    store.publish("a", OTHER, {PHOTO_NAME: b"other", output_name("red"): b"other red"})
    store.remove("a")
    assert (folder_of(store, "b") / output_name("red")).read_bytes() == b"red"
    assert store.adopt("c", RECIPE, ["red"])


def test_nothing_is_taken_over_from_a_job_that_changes_meanwhile(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a", RECIPE, FILES)

    def link_late(folder: Path, source: Path, names: Collection[str]) -> None:
        store.publish("a", OTHER, {PHOTO_NAME: b"other", output_name("red"): b"other red"})
        for name in names:
            (folder / name).write_bytes((source / name).read_bytes())

    monkeypatch.setattr("lumiply.server.folder.link_all", link_late)
    assert not store.adopt("b", RECIPE, ["red"])
    assert store.colors_of("b", RECIPE) == frozenset()
    assert not (folder_of(store, "b") / output_name("red")).exists()


def test_a_failed_write_keeps_what_was_there(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("a", RECIPE, {PHOTO_NAME: b"photo", output_name("red"): b"red"})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumiply.files.os.fsync", full)
    with pytest.raises(OSError):
        store.publish("a", RECIPE, {output_name("blue"): b"blue"})
    monkeypatch.undo()
    assert store.colors_of("a", RECIPE) == {"red"}
    assert {path.name for path in folder_of(store, "a").iterdir()} == {
        RECORD_NAME,
        PHOTO_NAME,
        output_name("red"),
    }


def test_removing_a_job_leaves_files_that_are_not_ours(store: JobStore) -> None:
    for job_id in ("a", "b"):
        store.publish(job_id, RECIPE, FILES)
    (folder_of(store, "b") / "notes.txt").write_text("mine")
    store.remove("a")
    store.remove("b")
    assert not folder_of(store, "a").exists()
    assert [path.name for path in folder_of(store, "b").iterdir()] == ["notes.txt"]


def aged(store: JobStore, job_id: str, days: float) -> None:
    """A job of 1000 bytes that was last changed so many days ago."""
    store.publish(job_id, replace(RECIPE, photo=job_id), {PHOTO_NAME: bytes(1000)})
    path = folder_of(store, job_id) / RECORD_NAME
    record = json.loads(path.read_bytes())
    record["updated"] = (datetime.now(timezone.utc) - timedelta(days=days)).isoformat()
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("days", "gigabytes", "active", "gone"),
    [
        (0, 0, "", []),
        (2.5, 0, "", ["d3", "d4"]),
        (2.5, 0, "d4", ["d3"]),
        (0, 2500e-9, "", ["d4", "d3"]),
        (0, 2500e-9, "d4", ["d3", "d2"]),
        (1.5, 3000e-9, "", ["d4", "d3", "d2"]),
    ],
)
def test_the_oldest_go_first_and_never_a_running_one(
    store: JobStore, days: float, gigabytes: float, active: str, gone: list[str]
) -> None:
    for age in (1, 4, 2, 3):
        aged(store, f"d{age}", age)
    (store.files.root / "not-ours").mkdir()
    sweeper = Sweeper(store, Metrics(), lambda job_id: job_id == active, days=days, gigabytes=gigabytes)
    assert sorted(sweeper.sweep()) == sorted(gone)
    left = {path.name for path in store.files.root.iterdir()}
    assert left == {"d1", "d2", "d3", "d4", "not-ours"} - set(gone)


def test_a_job_that_cannot_be_removed_keeps_no_other_and_is_told_of_once(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for age in (1, 3, 4):
        aged(store, f"d{age}", age)
    remove = store.files.remove

    def refuse(job_id: str) -> None:
        if job_id == "d4":
            raise PermissionError("somebody else's")
        remove(job_id)

    monkeypatch.setattr(store.files, "remove", refuse)
    sweeper = Sweeper(store, Metrics(), lambda job_id: False, days=2, gigabytes=0)
    assert (sweeper.sweep(), sweeper.sweep()) == (["d3"], [])
    assert {path.name for path in store.files.root.iterdir()} == {"d1", "d4"}
    assert [message for message in caplog.messages if "d4" in message] == [
        "job d4 stays beyond its time, remove it by hand: somebody else's"
    ]


def test_what_several_jobs_share_takes_its_space_once(store: JobStore) -> None:
    store.publish("a", RECIPE, {PHOTO_NAME: bytes(600), output_name("red"): bytes(300)})
    assert store.adopt("b", RECIPE, ["red"]) and store.adopt("c", RECIPE, ["red"])
    assert sum(stock.size for stock in store.stock()) == 900
    assert not Sweeper(store, Metrics(), lambda job_id: False, days=0, gigabytes=1000e-9).sweep()
    assert Sweeper(store, Metrics(), lambda job_id: False, days=0, gigabytes=800e-9).sweep() == [
        "a",
        "b",
        "c",
    ]


def test_the_sweeper_works_from_the_start_and_stops(store: JobStore) -> None:
    aged(store, "old", 9)
    swept = threading.Event()
    metrics = Metrics()
    metrics.swept.inc = lambda amount: swept.set()  # type: ignore[method-assign]
    sweeper = Sweeper(store, metrics, lambda job_id: False, days=1, gigabytes=0)
    sweeper.start()
    assert swept.wait(10)
    sweeper.close()
    sweeper.close()
    assert not folder_of(store, "old").exists()
