"""Garbage collection while a server runs: short, and nothing is kept for ever by it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch

from lumiply.engine.local import LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.server import EngineSlot, heap
from lumiply.server.service import Service
from lumiply.settings import Settings
from tests.fakes import INFO, PATIENCE_S, FakeEngine, wait_until
from tests.nano import nano_model


@pytest.fixture(autouse=True)
def of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that see off engines of earlier tests, once in minutes, collect and freeze nothing meanwhile."""
    earlier, real = set(threading.enumerate()), heap.settle_again

    def settle_again() -> None:
        if threading.current_thread() not in earlier:
            real()

    monkeypatch.setattr(heap, "settle_again", settle_again)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    heap.unsettle()
    assert gc.isenabled()


class Cyclic(FakeEngine):
    """An engine that, as real ones do, refers to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = self


def test_a_full_collection_skips_what_was_there_when_the_engine_came() -> None:
    before = len(gc.get_objects())
    heap.settle()
    assert len(gc.get_objects()) < before / 10  # what a full collection has to look at
    garbage = [Cyclic() for _ in range(3)]
    gone = [weakref.ref(one) for one in garbage]
    del garbage
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.parametrize("loaded_first", [True, False])
def test_a_service_settles_once_its_engine_is_there_and_gives_all_back(
    settings: Settings, loaded_first: bool
) -> None:
    slot = EngineSlot(FakeEngine() if loaded_first else None)
    with Service(settings, slot):
        if not loaded_first:
            assert gc.get_freeze_count() == 0
            slot.load(FakeEngine).join()
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


#: Objects that an engine of these tests consists of, so that it is seen in the count of what is left out.
MANY = 50_000


class Hanging(Cyclic):
    """An engine whose worker hangs until it is let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.objects = [[] for _ in range(MANY)]
        self.goes_on = threading.Event()
        self.is_waited_for = threading.Event()

    def close(self, timeout: float | None = None) -> None:
        super().close(timeout)
        if timeout is None:
            self.is_waited_for.set()
            assert self.goes_on.wait(PATIENCE_S)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumiply.server.slot.LET_GO_S", 0.01)


@pytest.fixture
def collectors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the threads that ask for full collections; none comes unasked."""
    names: list[str] = []
    real = gc.collect

    def collect() -> int:
        names.append(threading.current_thread().name)
        return real()

    gc.disable()
    monkeypatch.setattr(gc, "collect", collect)
    yield names
    gc.enable()


def test_after_a_replacement_the_old_engine_goes_and_collections_are_short_again(
    settings: Settings, no_patience: None, collectors: list[str]
) -> None:
    built: list[weakref.ref[Hanging]] = []

    def build() -> Hanging:
        engine = Hanging()
        built.append(weakref.ref(engine))
        return engine

    slot = EngineSlot()
    with Service(settings, slot):
        slot.load(build).join()
        with_one = gc.get_freeze_count()
        first = slot.get()
        assert isinstance(first, Hanging)
        goes_on, is_waited_for = first.goes_on, first.is_waited_for
        slot.restart(first, "stuck")
        del first
        assert is_waited_for.wait(PATIENCE_S) and slot.wait(PATIENCE_S)
        # the old one hangs on; the new one serves, and neither is looked at
        assert built[0]() is not None and slot.get() is built[1]()
        assert gc.get_freeze_count() > with_one + 0.9 * MANY
        goes_on.set()
        wait_until(lambda: built[0]() is None)  # collected, as nothing is unasked
        wait_until(lambda: gc.get_freeze_count() > 0)
        assert abs(gc.get_freeze_count() - with_one) < 0.1 * MANY
        assert set(collectors) == {"lumiply-load", "lumiply-give-up"}  # nobody waits for these


def test_an_engine_that_somebody_holds_goes_when_that_one_lets_go(
    settings: Settings, no_patience: None, collectors: list[str]
) -> None:
    slot = EngineSlot(Cyclic(), build=Cyclic)
    with Service(settings, slot):
        held = slot.get()
        gone = weakref.ref(held)
        slot.restart(held, "stuck")
        wait_until(lambda: collectors.count("lumiply-give-up") >= 2)
        assert gone() is held
        del held
        wait_until(lambda: gone() is None)
        wait_until(lambda: gc.get_freeze_count() > 10_000)


def test_an_engine_that_goes_when_nothing_is_served_any_more_leaves_nothing_out(
    settings: Settings, no_patience: None
) -> None:
    first = Hanging()
    slot = EngineSlot(first, build=Cyclic)
    with Service(settings, slot):
        slot.restart(first, "stuck")
        assert first.is_waited_for.wait(PATIENCE_S) and slot.wait(PATIENCE_S)
    last = next(thread for thread in threading.enumerate() if thread.name == "lumiply-give-up")
    first.goes_on.set()
    del first

    def collected() -> bool:
        gc.collect()
        return not last.is_alive()

    wait_until(collected)
    assert gc.get_freeze_count() == 0


def test_the_model_of_an_engine_that_was_replaced_goes(
    settings: Settings, no_patience: None, collectors: list[str]
) -> None:
    models: list[weakref.ref[torch.nn.Module]] = []

    def build() -> LocalEngine:
        pipeline = Pipeline(nano_model(), {})  # not the one that all tests share
        models.append(weakref.ref(pipeline.network))
        return LocalEngine(pipeline, INFO)

    slot = EngineSlot()
    with Service(settings, slot):
        slot.load(build).join()
        assert models[0]() is not None
        slot.restart(slot.get(), "stuck")
        assert slot.wait(PATIENCE_S)
        wait_until(lambda: models[0]() is None)
        assert models[1]() is not None
    slot.close(PATIENCE_S)
