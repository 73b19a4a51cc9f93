"""Who answers when: `TurnDispatcher`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from lumiply.server.turns import TurnDispatcher
from lumiply.waiting import waiting
from tests.fakes import PATIENCE_S, wait_until

#: No turn beyond those that there are, however slow the machine.
NEVER = 3600.0


@dataclass
class Task:
    """Something to do; counts who does it at the same time as others."""

    body: Callable[[], object]
    ended: threading.Event = field(default_factory=threading.Event)

    def service(self) -> None:
        try:
            self.body()
        finally:
            self.ended.set()

    def cancel(self) -> None:
        pass


class Together:
    """How many are within at once, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self.now -= 1


def gone(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)


@pytest.fixture
def dispatch() -> Iterator[Callable[..., TurnDispatcher]]:
    """Builds dispatchers with threads, and ends them."""
    made = []

    def build(turns: int, threads: int, patience_s: float = NEVER) -> TurnDispatcher:
        made.append(TurnDispatcher(turns, patience_s))
        made[-1].set_thread_count(threads)
        return made[-1]

    yield build
    for dispatcher in made:
        assert not dispatcher.threads or dispatcher.shutdown(timeout=PATIENCE_S)


def run(dispatcher: TurnDispatcher, *bodies: Callable[[], object]) -> list[Task]:
    tasks = [Task(body) for body in bodies]
    for task in tasks:
        dispatcher.add_task(task)
    return tasks


def test_no_more_tasks_run_at_once_than_there_are_turns_and_all_are_done(
    dispatch: Callable[..., TurnDispatcher],
) -> None:
    together, order = Together(), []

    def body(number: int) -> None:
        with together:
            order.append(number)
            threading.Event().wait(0.001)

    tasks = run(dispatch(2, 16), *[lambda number=number: body(number) for number in range(60)])
    for task in tasks:
        gone(task.ended)
    assert together.most == 2
    assert len(order) == 60
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))  # two at a time may overtake


def test_who_waits_leaves_the_turn_to_others(dispatch: Callable[..., TurnDispatcher]) -> None:
    came = threading.Event()

    def patient() -> None:
        with waiting():
            gone(came)

    for task in run(dispatch(1, 8), *[patient] * 5, came.set):
        gone(task.ended)


def test_who_comes_back_from_waiting_takes_turns_as_well_and_goes_first(
    dispatch: Callable[..., TurnDispatcher],
) -> None:
    dispatcher, together, order = dispatch(1, 8), Together(), []
    release, busy, all_wait = threading.Event(), threading.Event(), threading.Semaphore(0)

    def patient() -> None:
        with waiting():
            all_wait.release()
            gone(release)
        with together:
            order.append("back")
            threading.Event().wait(0.001)

    def occupied() -> None:
        with together:
            release.set()
            wait_until(lambda: len(dispatcher._returning) == 5)
            gone(busy)

    tasks = run(dispatcher, *[patient] * 5)
    for _ in range(5):
        assert all_wait.acquire(timeout=PATIENCE_S)
    tasks += run(dispatcher, occupied, lambda: order.append("new"))
    busy.set()
    for task in tasks:
        gone(task.ended)
    assert together.most == 1
    assert order == ["back"] * 5 + ["new"]


def test_a_wait_that_nobody_announced_costs_others_a_moment_only(
    dispatch: Callable[..., TurnDispatcher],
) -> None:
    came = threading.Event()
    hung = run(dispatch(2, 8, 0.01), *[lambda: gone(came)] * 5)
    others = run(hung_dispatcher := dispatch(2, 8, 0.01), *[lambda: gone(came)] * 5, came.set)
    for task in [*hung, *others]:
        gone(task.ended)
    wait_until(lambda: hung_dispatcher._left == 2)  # and is not counted for ever


def test_locks_held_while_waiting_block_nobody_for_good(dispatch: Callable[..., TurnDispatcher]) -> None:
    lock = threading.Lock()

    def careless() -> None:
        with lock, waiting():  # the others wait for it in their turns, and say nothing
            threading.Event().wait(0.001)

    for task in run(dispatch(1, 8, 0.01), *[careless] * 6):
        gone(task.ended)


def test_a_task_that_raises_gives_its_turn_back(
    dispatch: Callable[..., TurnDispatcher], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("as planned")

    for task in run(dispatch(1, 4), fail, fail, lambda: None):
        gone(task.ended)
    assert caplog.text.count("RuntimeError: as planned\n") == 2


def test_threads_that_wait_for_a_turn_end_when_told_to(dispatch: Callable[..., TurnDispatcher]) -> None:
    dispatcher, release = dispatch(1, 4), threading.Event()
    tasks = run(dispatcher, *[lambda: gone(release)] * 4)
    release.set()
    gone(tasks[0].ended)
    dispatcher.shutdown(timeout=PATIENCE_S)
    assert not dispatcher.threads
