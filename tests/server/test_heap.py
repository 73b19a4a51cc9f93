"""Garbage collection while a server runs: short, and nothing is kept for ever by it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from lumiply.server import EngineSlot, heap
from lumiply.server.service import Service
from lumiply.settings import Settings
from tests.fakes import FakeEngine, wait_until


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
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


def test_an_engine_that_was_replaced_goes() -> None:
    slot = EngineSlot()
    slot.load(Cyclic).join()
    first = slot.get()
    gone = weakref.ref(first)
    slot.restart(first, "stuck")
    del first
    assert slot.wait(10)

    def collected() -> bool:
        gc.collect()
        return gone() is None

    wait_until(collected)
