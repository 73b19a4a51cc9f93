"""Compiled code is loaded and compared while nothing is rendered, or after a limit; nothing waits for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lumiply.engine import ahead
from lumiply.engine.ahead import AheadOfTime
from lumiply.engine.compiling import BackgroundCompiler, CompilationError, Function, Part, Task
from lumiply.engine.local import LocalEngine
from lumiply.engine.pauses import Pauses
from lumiply.engine.protocol import EngineInfo, Progress
from lumiply.errors import CancelledError
from tests.engine.toy import Toy
from tests.nano import nano_pipeline

WAIT = 20.0
#: Longer than a test waits for anything.
NEVER = 2 * WAIT
#: Long for a thread that is about to do something wrong, short for a test that waits whether it does.
MOMENT = 0.2
INFO = EngineInfo("nano", "filled by name", "nano-0", "cpu", "float32", 64, 3)
PHOTO = Image.new("RGB", (50, 40), (90, 80, 70))
PART = Part(Toy(), "encode", (torch.zeros(1, 4, 6, 6),))


class Watched(Pauses):
    """Notes in `seen` who waits, and says so by an event."""

    def __init__(self, *, quiet: float = 0, limit: float = NEVER) -> None:
        super().__init__(quiet=quiet, limit=limit)
        self.seen: list[str] = []
        self.asked = threading.Event()

    def wait(self, given_up: Callable[[], bool]) -> None:
        self.seen.append("pause")
        self.asked.set()
        super().wait(given_up)


class Plain:
    """A compiler that gives each part as it stands."""

    def __call__(self, part: Part, name: str) -> Function:
        return getattr(part.network, part.method)

    def close(self) -> None:
        pass


def task(install: Callable[[Function], None]) -> Task:
    shift, network = torch.zeros(1), Toy()
    encoded = network.encode(torch.zeros(1, 4, 6, 6))
    given = (encoded, shift)
    part = Part(network, "decode", given)
    return Task(
        "a task", lambda: given, (lambda _: part,), lambda functions: functions[0], network.decode, install
    )


def took(function: Callable[[], Any]) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def begun(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Callable[[Watched], AheadOfTime]:
    """Makes caches in which each part is there as soon as it is asked for; they note what they do."""

    def made(pauses: Watched) -> AheadOfTime:
        def compile(self: AheadOfTime, description: bytes, path: Path, name: str) -> None:
            pauses.seen.append("compile")
            path.mkdir()

        def load(path: Path, network: Toy) -> Function:
            pauses.seen.append("load")
            return network.encode

        monkeypatch.setattr(AheadOfTime, "_compile", compile)
        monkeypatch.setattr(ahead, "load", load)
        monkeypatch.setattr(ahead, "LOADER", "json")  # imported long ago
        return AheadOfTime(tmp_path, pauses=pauses)

    return made


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(nano_pipeline(), INFO, pauses=Watched())
    yield engine
    engine.close(WAIT)


# -- pauses by themselves


def test_where_nothing_is_under_way_nobody_waits():
    assert took(lambda: Pauses(quiet=0, limit=NEVER).wait(lambda: False)) < WAIT


def test_a_pause_begins_when_the_last_render_ends():
    pauses, order = Watched(), []
    pauses.enter()
    pauses.enter()
    thread = begun(lambda: (pauses.wait(lambda: False), order.append("pause")))
    assert pauses.asked.wait(WAIT)
    pauses.leave()
    thread.join(MOMENT)
    order.append("last")
    pauses.leave()
    thread.join(WAIT)
    assert order == ["last", "pause"]


def test_a_render_that_follows_at_once_keeps_the_pause_from_beginning():
    pauses, order = Watched(quiet=MOMENT), []
    pauses.enter()
    thread = begun(lambda: (pauses.wait(lambda: False), order.append("pause")))
    assert pauses.asked.wait(WAIT)
    pauses.leave()
    pauses.enter()
    thread.join(3 * MOMENT)
    order.append("second")
    assert took(lambda: (pauses.leave(), thread.join(WAIT))) >= MOMENT * 0.9
    assert order == ["second", "pause"]


def test_just_after_the_start_a_first_render_is_about_to_come():
    assert took(lambda: Pauses(quiet=MOMENT).wait(lambda: False)) >= MOMENT * 0.9


def test_an_engine_that_is_never_idle_holds_nobody_up_longer_than_the_limit():
    pauses = Pauses(limit=MOMENT)
    pauses.enter()
    assert MOMENT * 0.9 <= took(lambda: pauses.wait(lambda: False)) < WAIT


def test_the_limit_is_of_the_time_without_a_pause_not_of_every_wait():
    pauses = Pauses(quiet=0, limit=MOMENT)
    pauses.enter()
    pauses.wait(lambda: False)
    assert took(lambda: pauses.wait(lambda: False)) < MOMENT / 2
    pauses.leave()
    pauses.enter()  # after a pause
    assert took(lambda: pauses.wait(lambda: False)) >= MOMENT * 0.9


def test_those_who_have_given_up_go_on_at_once():
    pauses, over = Watched(), threading.Event()
    pauses.enter()
    thread = begun(lambda: pauses.wait(over.is_set))
    assert pauses.asked.wait(WAIT)
    over.set()
    pauses.wake()
    thread.join(WAIT)
    assert not thread.is_alive()


# -- what waits for them


def test_while_a_render_is_under_way_finished_code_is_not_loaded(kept):
    pauses = Watched()
    cache = kept(pauses)
    cache(PART, "a part")
    pauses.asked.clear()
    pauses.seen.clear()
    pauses.enter()
    thread = begun(lambda: cache(PART, "a part"))
    assert pauses.asked.wait(WAIT)
    thread.join(MOMENT)
    pauses.seen.append("end")
    pauses.leave()
    thread.join(WAIT)
    assert pauses.seen == ["pause", "end", "pause", "load"]


def test_code_that_is_finished_while_a_render_runs_waits_for_its_end(kept, monkeypatch):
    pauses = Watched()
    cache = kept(pauses)
    compile = AheadOfTime._compile

    def meanwhile(self: AheadOfTime, *given: Any) -> None:
        compile(self, *given)
        pauses.enter()
        pauses.asked.clear()

    monkeypatch.setattr(AheadOfTime, "_compile", meanwhile)
    thread = begun(lambda: cache(PART, "a part"))
    thread.join(MOMENT)
    assert pauses.asked.wait(WAIT)
    pauses.seen.append("end")
    pauses.leave()
    thread.join(WAIT)
    assert pauses.seen == ["pause", "compile", "pause", "end", "load"]


def test_between_what_loads_code_and_the_first_code_renders_go_first(kept, monkeypatch):
    pauses = Watched()
    cache = kept(pauses)
    monkeypatch.setattr(ahead, "LOADER", "not.imported.yet")
    monkeypatch.setattr(ahead.importlib, "import_module", lambda name: pauses.seen.append(f"import {name}"))
    cache(PART, "a part")
    assert pauses.seen == ["pause", "compile", "pause", "import not.imported.yet", "pause", "load"]


def test_after_the_limit_code_is_loaded_beside_renders(kept):
    pauses = Watched(limit=MOMENT)
    pauses.enter()
    assert took(lambda: kept(pauses)(PART, "a part")) >= MOMENT
    assert pauses.seen[-1] == "load"


def test_closing_wakes_what_waits_to_load(kept):
    pauses, errors = Watched(), []
    cache = kept(pauses)
    pauses.enter()

    def ask() -> None:
        try:
            cache(PART, "a part")
        except CompilationError as error:
            errors.append(str(error))

    thread = begun(ask)
    assert pauses.asked.wait(WAIT)
    cache.close()
    thread.join(WAIT)
    assert errors == ["the engine is closing"] and "load" not in pauses.seen


def test_code_is_compared_and_taken_over_when_the_render_has_ended():
    pauses, installed = Watched(), []
    pauses.enter()
    compiler = BackgroundCompiler([task(installed.append)], Plain(), pauses=pauses)
    assert pauses.asked.wait(WAIT)
    assert not compiler.wait(MOMENT) and not installed
    pauses.leave()
    assert compiler.wait(WAIT) and len(installed) == 1


def test_a_compiler_that_is_closed_compares_nothing_more(caplog):
    pauses, installed = Watched(), []
    pauses.enter()
    compiler = BackgroundCompiler([task(installed.append)], Plain(), pauses=pauses)
    assert pauses.asked.wait(WAIT)
    compiler.close()
    assert compiler.wait(WAIT) and not installed and not caplog.text


# -- the engine


def test_from_its_request_to_its_end_a_render_of_the_engine_is_no_pause(engine):
    opened, installed = threading.Event(), []

    def hold(progress: Progress) -> None:
        assert opened.wait(WAIT)

    future = engine.submit(PHOTO, ["red"], progress=hold)
    compiler = BackgroundCompiler([task(installed.append)], Plain(), pauses=engine.pauses)
    assert engine.pauses.asked.wait(WAIT)
    assert not compiler.wait(MOMENT) and not installed
    opened.set()
    assert future.result(WAIT) and compiler.wait(WAIT) and len(installed) == 1


def test_however_renders_end_a_pause_begins(engine):
    entered, opened = threading.Event(), threading.Event()

    def refuse(progress: Progress) -> None:
        entered.set()
        assert opened.wait(WAIT)
        raise CancelledError("no longer wanted")

    failing = engine.submit(PHOTO, ["red"], progress=refuse)
    assert entered.wait(WAIT)
    waiting = [engine.submit(PHOTO, ["red"]) for _ in range(2)]
    assert waiting[0].cancel()
    opened.set()
    assert isinstance(failing.exception(WAIT), CancelledError) and waiting[1].result(WAIT)
    assert took(lambda: engine.pauses.wait(lambda: False)) < WAIT


def test_closing_the_engine_wakes_its_compiler_though_a_render_goes_on():
    pauses, opened, installed = Watched(), threading.Event(), []
    pauses.enter()
    compiler = BackgroundCompiler([task(installed.append)], Plain(), pauses=pauses)
    engine = LocalEngine(nano_pipeline(), INFO, compiler=compiler, pauses=pauses)

    def hold(progress: Progress) -> None:
        assert opened.wait(WAIT)

    engine.submit(PHOTO, ["red"], progress=hold)
    assert pauses.asked.wait(WAIT)
    engine.close(0)
    assert compiler.wait(WAIT) and not installed
    opened.set()
    engine.close(WAIT)
