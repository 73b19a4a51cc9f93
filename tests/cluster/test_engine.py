"""The engine over Ray keeps the promises of the one in the process, whatever happens to its replicas."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image

from lumiply.colors import COLORS
from lumiply.engine.protocol import Engine, Progress
from lumiply.errors import (
    BusyError,
    CancelledError,
    EngineClosedError,
    OutdatedError,
    UnknownColorError,
    UserError,
)
from lumiply.server import create_app
from lumiply.server.names import RECORD_NAME
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import wait_until
from tests.server.conftest import post
from tests.server.nano_server import build

WAIT = 60.0
PHOTO = Image.new("RGB", (50, 40), (90, 80, 70))
LONG = 1000  # steps: enough to act while they go


@pytest.fixture
def engine(cluster: Settings) -> Iterator[Engine]:
    from lumiply.cluster.start import connect

    engine = connect(cluster.replace(replicas=None))
    yield engine
    engine.close()


def replica_pids() -> set[int]:
    """Of the processes that render now."""

    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "ServeReplica" in " ".join(child.cmdline())
    }


def difference(a: Image.Image, b: Image.Image) -> int:
    """The most by which a pixel differs: another number of threads rounds otherwise."""
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


class Watch:
    """A progress callback that tells when a render has begun."""

    def __init__(self) -> None:
        self.began, self.seen = threading.Event(), list[Progress]()

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if progress.stage == "denoise":
            self.began.set()


class Silent:
    """A handle of an application without replicas, until it is cancelled."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def options(self, **options: object) -> Silent:
        return self

    def remote(self, call: object) -> Silent:
        return self

    def __iter__(self) -> Iterator[Progress]:
        self._cancelled.wait(WAIT)
        return iter(())

    def cancel(self) -> None:
        self._cancelled.set()


def test_it_is_an_engine_that_says_what_its_replicas_are(engine):
    assert isinstance(engine, Engine)
    assert (engine.info.model, engine.info.fingerprint, engine.info.parallel) == ("nano", "nano-0", 2)


def test_the_pictures_are_those_of_the_engine_in_the_process(engine):
    local = build()
    expected = local.submit(PHOTO, COLORS, seed=7, steps=3).result(WAIT)
    local.close()
    renders = [engine.submit(PHOTO, COLORS, seed=7, steps=3) for _ in range(4)]
    for came in (render.result(WAIT) for render in renders):  # whichever replica rendered
        assert tuple(came) == COLORS
        assert all(difference(came[color], expected[color]) <= 1 for color in COLORS)


def test_progress_comes_back_and_ends_at_one(engine):
    watch = Watch()
    engine.submit(PHOTO, ["red"], steps=4, progress=watch).result(WAIT)
    fractions = [progress.fraction for progress in watch.seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [p.step for p in watch.seen if p.stage == "denoise"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "changed, error",
    [({"colors": []}, UserError), ({"colors": ["pink"]}, UnknownColorError), ({"steps": 0}, UserError),
     ({"seed": -1}, UserError), ({"preset": "best"}, UserError)],
)  # fmt: skip
def test_what_cannot_be_rendered_is_refused_at_once(engine, changed, error):
    with pytest.raises(error):
        engine.submit(**{"photo": PHOTO, "colors": ["red"], **changed})
    assert engine.queue_length == 0


def test_a_full_queue_refuses_and_cancelled_renders_stop_on_their_replicas(engine):
    watch = Watch()
    running = [engine.submit(PHOTO, ["red"], steps=LONG, progress=watch) for _ in range(2 * 2 + 4)]
    with pytest.raises(BusyError, match="8 renders"):
        engine.submit(PHOTO, ["red"])
    assert watch.began.wait(WAIT)
    for future in running:
        assert future.cancel()
    assert engine.queue_length == 0
    assert engine.submit(PHOTO, ["red"], steps=1).result(WAIT)


def test_an_error_in_the_callback_ends_that_render_alone(engine):
    def refuse(progress: Progress) -> None:
        raise CancelledError("no longer wanted")

    with pytest.raises(CancelledError, match="no longer wanted"):
        engine.submit(PHOTO, ["red"], progress=refuse).result(WAIT)
    assert engine.submit(PHOTO, ["red"], steps=1).result(WAIT)


def test_a_render_whose_replica_is_killed_gives_the_same_pictures(engine):
    from lumiply.cluster.start import is_up

    expected = engine.submit(PHOTO, ["blue"], steps=200).result(WAIT)["blue"]
    watch = Watch()
    future = engine.submit(PHOTO, ["blue"], steps=200, progress=watch)
    assert watch.began.wait(WAIT)
    killed = replica_pids()
    for pid in killed:  # all of them, so that the one that renders is among them
        os.kill(pid, signal.SIGKILL)
    assert future.result(WAIT)["blue"].tobytes() == expected.tobytes()
    assert [p.step for p in watch.seen if p.stage == "denoise"].count(1) >= 2  # begun anew

    def replaced() -> bool:
        assert is_up()  # a server that joins now must not take it for gone
        return len(replica_pids() - killed) == 2

    wait_until(replaced)


def test_what_waits_for_a_replica_hears_that_it_waits(engine, monkeypatch):
    monkeypatch.setattr("lumiply.cluster.engine.LOOK_S", 0.01)
    heard, other = Watch(), type(engine)(
        Silent(), engine.info, queue_size=1, is_up=lambda: True, disconnect=lambda: None
    )  # fmt: skip
    future = other.submit(PHOTO, ["red"], progress=heard)
    wait_until(lambda: len(heard.seen) >= 2)
    assert {now.stage for now in heard.seen} == {"queued"}
    other.close()
    assert isinstance(future.exception(WAIT), EngineClosedError)


def test_a_replica_with_other_weights_is_counted_on_from_the_next_render(engine):
    engine._info = replace(engine.info, fingerprint="nano-1", colors=("red",))
    with pytest.raises(OutdatedError, match="other weights"):
        engine.submit(PHOTO, ["red"]).result(WAIT)
    assert (engine.info.fingerprint, engine.info.colors, engine.info.parallel) == ("nano-0", COLORS, 2)
    assert engine.info.device.endswith("over Ray")
    assert engine.submit(PHOTO, ["red"], steps=1).result(WAIT)


def test_a_server_follows_replicas_that_were_replaced(engine, tmp_path):
    engine._info = replace(engine.info, fingerprint="nano-1")  # as if another server had replaced them
    app = create_app(Settings(results_dir=tmp_path), engine)
    assert post(app.test_client(), steps="2").status_code == 200
    record = json.loads((tmp_path / "job-1" / RECORD_NAME).read_text())
    assert record["recipe"]["engine"] == "nano-0"
    site_of(app).close(0)


def test_closing_ends_what_runs_and_refuses_what_comes_and_leaves_the_replicas(engine, cluster):
    from lumiply.cluster.start import connect, is_up

    future = engine.submit(PHOTO, ["red"], steps=LONG)
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        future.result(WAIT)
    with pytest.raises(EngineClosedError):
        engine.submit(PHOTO, ["red"])
    assert is_up()
    again = connect(cluster.replace(replicas=None))
    assert again.submit(PHOTO, ["red"], steps=1).result(WAIT)
    again.close()
    assert again.closed
