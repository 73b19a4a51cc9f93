"""The queue in front of the engine: fair, bounded, and what it does about engines that fail, die or hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from lumiply.colors import COLORS
from lumiply.engine.protocol import Progress
from lumiply.errors import (
    BusyError,
    CancelledError,
    DeviceMemoryError,
    EngineClosedError,
    LumiplyError,
    RenderError,
    StuckError,
    UserError,
)
from lumiply.images import encode_png
from lumiply.server.dispatch import RenderQueue
from lumiply.server.metrics import Metrics
from lumiply.server.record import Recipe
from lumiply.server.render import Render
from lumiply.server.slot import MOST_RESTARTS, EngineSlot
from tests.fakes import INFO, PATIENCE_S, FakeEngine, wait_until

RECIPE = Recipe(photo="p", seed=1, steps=2, preset="", jpeg_quality=95, engine=INFO.fingerprint)


def render(job_id: str = "a", colors: tuple[str, ...] = ("red",), red: int = 0) -> Render:
    photo = Image.new("RGB", (4, 4), (red, 0, 0))
    made = Render(RECIPE, colors, job_id, photo)
    made.photo_file.set_result(encode_png(photo))
    return made


@pytest.fixture
def make_queue() -> Iterator[Callable[..., RenderQueue]]:
    made: list[RenderQueue] = []

    def make(engine: FakeEngine | EngineSlot, size: int = 8, stuck_after_s: float = 60.0) -> RenderQueue:
        slot = engine if isinstance(engine, EngineSlot) else EngineSlot(engine)
        made.append(RenderQueue(slot, Metrics(), size=size, stuck_after_s=stuck_after_s))
        made[-1].start()
        return made[-1]

    yield make
    for queue in made:
        queue.close(0)


@pytest.fixture
def manual() -> FakeEngine:
    return FakeEngine(manual=True)


def running(engine: FakeEngine, number: int) -> None:
    """Let the engine report that it works on a render."""
    found = engine.wait_for(number)
    assert found.progress is not None
    found.progress(Progress("prepare", 0, 1))


def test_the_engine_is_kept_one_render_ahead(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue = make_queue(manual)
    for number in range(5):
        queue.add(render(str(number)))
    manual.wait_for(2)
    assert (len(manual.renders), queue.length) == (2, 5)
    manual.renders[0].finish()
    manual.wait_for(3)
    assert len(manual.renders) == 3


def test_an_engine_that_works_on_several_gets_several(make_queue: Callable[..., RenderQueue]) -> None:
    engine = FakeEngine(manual=True, info=replace(INFO, parallel=4))
    queue = make_queue(engine)
    for number in range(9):
        queue.add(render(str(number)))
    engine.wait_for(5)
    assert queue.length == 9 and len(engine.renders) == 5


@pytest.mark.parametrize(("colors", "given"), [(COLORS[:1], 11), (COLORS[:4], 3), (COLORS, 2)])
def test_an_engine_that_counts_pictures_gets_as_many_small_renders_as_it_can_use(
    make_queue: Callable[..., RenderQueue], colors: tuple[str, ...], given: int
) -> None:
    engine = FakeEngine(manual=True, info=replace(INFO, batch=7))
    queue = make_queue(engine, size=2)
    made = [render(str(number), colors) for number in range(given + 2)]
    for one in made:
        queue.add(one)
    with pytest.raises(BusyError, match="^2 renders"):
        queue.add(render("late", colors))
    engine.wait_for(given)
    assert [queue.place(one) for one in made] == list(range(1, given + 3))
    engine.renders[0].finish()
    engine.wait_for(given + 1)
    wait_until(lambda: queue.length == given + 1)
    assert len(engine.renders) == given + 1


def test_large_photos_are_not_given_beyond_what_keeps_the_engine_busy(
    make_queue: Callable[..., RenderQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumiply.server.dispatch.MOST_WAITING_BYTES", 4 * 4 * 3 * 3)
    engine = FakeEngine(manual=True, info=replace(INFO, batch=14))
    queue = make_queue(engine)
    for number in range(3):
        queue.add(render(str(number)))
        engine.wait_for(number + 1)
    for number in range(3, 7):
        queue.add(render(str(number)))
    with pytest.raises(BusyError, match="^photos of 0 MiB are already"):
        queue.add(render("late"))
    assert len(engine.renders) == 3
    engine.renders[0].finish()
    engine.wait_for(4)


def test_nothing_is_promised_beside_a_render_that_is_tried_again_by_itself(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue = make_queue(manual, size=2)
    queue.add(render("a"))
    manual.wait_for(1).fail(MemoryError())
    manual.wait_for(2)
    for number in range(2):
        queue.add(render(str(number)))
    with pytest.raises(BusyError, match="^2 renders"):
        queue.add(render("late"))
    manual.renders[1].finish()
    manual.wait_for(4)


def test_a_job_with_many_renders_does_not_hold_up_the_others(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue = make_queue(manual)
    greedy = [render("greedy", red=number) for number in range(5)]
    for made in greedy:
        queue.add(made)
    manual.wait_for(2)
    modest = [render("modest", red=100), render("other", red=200)]
    for made in modest:
        queue.add(made)
    assert [queue.place(made) for made in (*greedy, *modest)] == [1, 2, 3, 6, 7, 4, 5]
    for number in range(1, 8):
        manual.wait_for(number).finish()
    assert [found.photo.getpixel((0, 0))[0] for found in manual.renders] == [0, 1, 2, 100, 200, 3, 4]


def test_a_full_queue_refuses_at_once(manual: FakeEngine, make_queue: Callable[..., RenderQueue]) -> None:
    queue = make_queue(manual, size=2)
    for number in range(4):
        queue.add(render(str(number)))
    with pytest.raises(BusyError):
        queue.add(render("late"))
    manual.wait_for(1).finish()
    manual.wait_for(3)
    queue.add(render("later"))


def test_a_cancelled_render_frees_its_place(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue = make_queue(manual)
    made = [render(str(number)) for number in range(4)]
    for one in made:
        queue.add(one)
    manual.wait_for(2)
    queue.cancel(made[3], CancelledError("x"))
    queue.cancel(made[0], CancelledError("x"))
    assert manual.renders[0].future.cancelled()
    manual.wait_for(3)
    assert queue.length == 2
    assert isinstance(made[3].result.exception(0), CancelledError)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), RenderError("not finite"), MemoryError(), DeviceMemoryError("x"), StuckError("x")],
)
def test_what_may_pass_is_tried_once_more(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue], error: Exception
) -> None:
    queue, made = make_queue(manual), render()
    queue.add(made)
    manual.wait_for(1).fail(error)
    manual.wait_for(2).finish()
    assert set(made.result.result(PATIENCE_S)) == {"red"}
    again = render("b")
    queue.add(again)
    manual.wait_for(3).fail(error)
    manual.wait_for(4).fail(error)
    assert again.result.exception(PATIENCE_S) is error
    assert len(manual.renders) == 4


@pytest.mark.parametrize("error", [UserError("x"), EngineClosedError("x"), BusyError("x")])
def test_what_trying_again_cannot_help_is_not_tried_again(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue], error: LumiplyError
) -> None:
    queue, made = make_queue(manual), render()
    queue.add(made)
    manual.wait_for(1).fail(error)
    assert made.result.exception(PATIENCE_S) is error
    assert len(manual.renders) == 1


def test_out_of_memory_tries_one_colour_at_a_time(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue, made = make_queue(manual), render(colors=COLORS)
    queue.add(made)
    out_of_memory = RenderError("wrapped")
    out_of_memory.__cause__ = type("OutOfMemoryError", (RuntimeError,), {})()
    manual.wait_for(1).fail(out_of_memory)
    for number in range(2, 9):
        manual.wait_for(number).finish()
    assert set(made.result.result(PATIENCE_S)) == set(COLORS)
    assert [found.colors for found in manual.renders] == [COLORS, *((color,) for color in COLORS)]


def test_a_failed_render_harms_no_other(manual: FakeEngine, make_queue: Callable[..., RenderQueue]) -> None:
    queue, bad, good = make_queue(manual), render("bad", red=1), render("good", red=2)
    queue.add(bad)
    queue.add(good)
    manual.wait_for(2)
    manual.renders[0].fail(ValueError("x"))
    manual.renders[1].finish()
    assert good.result.result(PATIENCE_S)["red"].getpixel((0, 0))[0] == 2
    manual.wait_for(3).fail(ValueError("x"))
    assert isinstance(bad.result.exception(PATIENCE_S), ValueError)


def test_what_is_tried_once_more_shares_the_engine_with_no_other(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, beside_it = manual.submit, []

    def note(*args: Any, **options: Any) -> Any:
        beside_it.append(manual.queue_length)
        return submit(*args, **options)

    monkeypatch.setattr(manual, "submit", note)
    queue, bad, beside, after = make_queue(manual), render("bad"), render("beside"), render("after")
    for made in (bad, beside, after):
        queue.add(made)
    manual.wait_for(2)
    manual.renders[0].fail(ValueError("x"))
    wait_until(lambda: bad.failures == 1)
    manual.renders[1].finish()
    manual.wait_for(3).finish()
    manual.wait_for(4).finish()
    for made in (bad, beside, after):
        assert made.result.result(PATIENCE_S)
    assert beside_it == [0, 1, 0, 0]


class Factory:
    """Builds engines, and keeps them."""

    def __init__(self, *engines: FakeEngine) -> None:
        self.left = list(engines)
        self.built = threading.Event()

    def __call__(self) -> FakeEngine:
        self.built.set()
        return self.left.pop(0)


def test_a_stuck_engine_is_replaced_and_what_it_had_is_rendered_by_the_next(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    second = FakeEngine()
    slot = EngineSlot(manual, build=Factory(second))
    queue = make_queue(slot, stuck_after_s=0.1)
    hung, behind, waiting = render("hung"), render("behind"), render("waiting")
    for made in (hung, behind, waiting):
        queue.add(made)
    running(manual, 1)
    for made in (hung, behind, waiting):
        assert made.result.result(PATIENCE_S)
    assert slot.engine is second and "no progress" in slot.reason
    wait_until(lambda: manual.closed)
    assert (hung.failures, behind.failures, waiting.failures) == (1, 0, 0)


def test_a_render_that_hangs_every_engine_fails_alone(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    second, third = FakeEngine(manual=True), FakeEngine()
    queue = make_queue(EngineSlot(manual, build=Factory(second, third)), stuck_after_s=0.1)
    hung, behind = render("hung"), render("behind")
    queue.add(hung)
    queue.add(behind)
    running(manual, 1)
    running(second, 1)
    assert isinstance(hung.result.exception(PATIENCE_S), StuckError)
    assert behind.result.result(PATIENCE_S)


def test_an_answer_of_an_engine_that_was_replaced_is_ignored(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    second = FakeEngine(manual=True)
    queue, made = make_queue(EngineSlot(manual, build=Factory(second)), stuck_after_s=0.1), render(red=9)
    manual.close = lambda timeout=None: None  # type: ignore[method-assign]
    queue.add(made)
    running(manual, 1)
    second.wait_for(1)
    manual.renders[0].fail(ValueError("too late"))
    assert not made.result.done()
    second.renders[0].finish()
    assert made.result.result(PATIENCE_S)["red"].getpixel((0, 0))[0] == 9


def test_progress_keeps_an_engine_from_being_taken_for_stuck(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    factory = Factory()
    queue, made = make_queue(EngineSlot(manual, build=factory), stuck_after_s=0.5), render()
    queue.add(made)
    for _ in range(8):
        running(manual, 1)
        assert not factory.built.wait(0.1)
    manual.renders[0].finish()
    assert made.result.result(PATIENCE_S)


def test_a_dead_worker_is_replaced_without_waiting(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue, made = make_queue(EngineSlot(manual, build=Factory(FakeEngine()))), render()
    queue.add(made)
    manual.wait_for(1)
    manual.alive = False
    assert made.result.result(PATIENCE_S)


def test_an_engine_that_cannot_be_replaced_fails_those_who_wait(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    slot = EngineSlot(manual)
    queue = make_queue(slot, stuck_after_s=0.1)
    first, second, third = render("1"), render("2"), render("3")
    for made in (first, second, third):
        queue.add(made)
    running(manual, 1)
    for made in (first, second, third):
        assert isinstance(made.result.exception(PATIENCE_S), (StuckError, EngineClosedError))
    assert slot.state == "failed"


def test_an_engine_is_not_replaced_for_ever() -> None:
    slot = EngineSlot(FakeEngine(), build=FakeEngine)
    for _ in range(MOST_RESTARTS):
        slot.restart(slot.get(), "stuck")  # type: ignore[arg-type]
        assert slot.wait(PATIENCE_S) and slot.state == "ready"
    slot.restart(slot.get(), "stuck")
    assert slot.state == "failed" and "restart the server" in str(slot.error)


def test_closing_gives_what_runs_its_time_and_fails_the_rest(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue = make_queue(manual)
    made = [render(str(number)) for number in range(3)]
    for one in made:
        queue.add(one)
    manual.wait_for(2)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(queue.close, PATIENCE_S)
        assert isinstance(made[2].result.exception(PATIENCE_S), EngineClosedError)
        with pytest.raises(EngineClosedError):
            queue.add(render("late"))
        manual.renders[0].finish()
        manual.renders[1].finish()
        closing.result(PATIENCE_S)
    assert made[0].result.result(0) and made[1].result.result(0)


def test_what_is_put_back_while_it_closes_is_finished_within_the_time(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue, made = make_queue(manual), render(colors=("red", "blue"))
    queue.add(made)
    manual.wait_for(1).fail(DeviceMemoryError("x"))
    manual.wait_for(2)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(queue.close, PATIENCE_S)
        wait_until(lambda: queue.is_draining)
        manual.renders[1].finish()
        manual.wait_for(3).finish()
        closing.result(PATIENCE_S)
    assert set(made.result.result(0)) == {"red", "blue"}


def test_what_is_put_back_while_it_closes_ends_with_the_time(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    may_build = threading.Event()

    def build() -> FakeEngine:
        assert may_build.wait(PATIENCE_S)
        return FakeEngine()

    queue, made = make_queue(EngineSlot(manual, build=build), stuck_after_s=0.4), render()
    queue.add(made)
    manual.wait_for(1)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(queue.close, 0.5)
        wait_until(lambda: queue.is_draining)
        manual.alive = False
        closing.result(PATIENCE_S)
    assert isinstance(made.result.exception(0), EngineClosedError)
    may_build.set()


def test_closing_with_no_time_cancels_what_runs(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue, made = make_queue(manual), render()
    queue.add(made)
    manual.wait_for(1)
    queue.close(0)
    assert isinstance(made.result.exception(0), EngineClosedError)
    assert manual.renders[0].future.cancelled()


def test_photos_that_wait_long_wait_as_files(
    manual: FakeEngine, make_queue: Callable[..., RenderQueue]
) -> None:
    queue = make_queue(manual, size=20)
    made = [render(str(number), red=number) for number in range(12)]
    for one in made:
        queue.add(one)
    assert made[2].photo is not None and made[-2].photo is None
    for number in range(1, 13):
        manual.wait_for(number).finish()
    assert [one.result.result(PATIENCE_S)["red"].getpixel((0, 0))[0] for one in made] == list(range(12))
