"""The queue in front of the engine: bounded, fair between jobs, and watched.

The engine is given as many renders as it works on at once and a few more, so that it never idles
(`EngineInfo.has_room`). All others wait here, where they can be told their place, be cancelled, and survive an engine
that has to be replaced.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any, Final

from lumiply.engine.protocol import Engine, Progress
from lumiply.errors import (
    BusyError,
    CancelledError,
    DeviceMemoryError,
    EngineClosedError,
    LumiplyError,
    OutdatedError,
    RenderError,
    StuckError,
)
from lumiply.server.metrics import Metrics
from lumiply.server.render import Pictures, Render
from lumiply.server.slot import EngineSlot

log = logging.getLogger(__name__)

#: A render that failed is tried this often in all.
ATTEMPTS: Final = 2
#: Most bytes of photos that wait.
MOST_WAITING_BYTES: Final = 2**30
#: Renders that keep their photo decoded while they wait: the next ones.
_KEPT_DECODED: Final = 4


class RenderQueue:
    """Feeds the engine of a slot. Thread-safe."""

    def __init__(self, slot: EngineSlot, metrics: Metrics, *, size: int, stuck_after_s: float) -> None:
        """Build it; `start()` starts its thread.

        Args:
            size: renders that may wait besides those with the engine.
            stuck_after_s: seconds without any progress after which the engine is replaced.
        """
        self._slot, self._metrics = slot, metrics
        self._size, self._stuck_after = size, stuck_after_s
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Render]] = OrderedDict()  # by job, the next job first
        self._with_engine: dict[Render, Engine] = {}
        self._last_progress = time.monotonic()
        self._draining = self._closed = False
        self._thread: threading.Thread | None = None

    # What others ask

    @property
    def length(self) -> int:
        """Renders accepted and not yet ended."""
        with self._changed:
            return self._count_waiting() + len(self._with_engine)

    @property
    def stalled_s(self) -> float:
        """Seconds without progress, while the engine has something to do; else 0."""
        with self._changed:
            return time.monotonic() - self._last_progress if self._with_engine else 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether the engine has something to do and does nothing."""
        return self.stalled_s > self._stuck_after

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is accepted."""
        return self._draining

    def place(self, render: Render) -> int:
        """How many renders will start before this one, plus one; 0 if it has started or ended."""
        with self._changed:
            if render.state != "queued":
                return 0
            ahead = [other for other in self._with_engine if other.state == "queued"]
            for place, other in enumerate([*ahead, *self._in_order()]):
                if other is render:
                    return place + 1
            return 0

    def _in_order(self) -> list[Render]:
        """All that wait, in the order in which they will go: one of each job in turn."""
        rows = [list(row) for row in self._waiting.values()]
        return [
            row[turn] for turn in range(max(map(len, rows), default=0)) for row in rows if turn < len(row)
        ]

    # What changes it

    def start(self) -> None:
        """Start feeding. Starting it again changes nothing."""
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="lumiply-dispatch", daemon=True)
                self._thread.start()

    def add(self, render: Render) -> None:
        """Queue a render.

        Raises:
            BusyError: as many wait as may.
            EngineClosedError: the server is shutting down.
        """
        with self._changed:
            if self._draining:
                raise closing_error()
            waiting, size = self._left_waiting(render) - 1, self._bytes_waiting()
            if waiting >= self._size or size > MOST_WAITING_BYTES:
                self._metrics.refused.inc()
                what = f"{waiting} renders" if waiting >= self._size else f"photos of {size / 2**20:.0f} MiB"
                raise BusyError(f"{what} are already waiting, the most this server keeps")
            self._waiting.setdefault(render.job_id, deque()).append(render)
            self._changed.notify_all()

    def cancel(self, render: Render, why: BaseException) -> None:
        """End a render that nobody wants any more."""
        with self._changed:
            self._take_out(render)
            rendering = self._with_engine.pop(render, None) and render.rendering
            render.attempt += 1  # what the engine still says about it is ignored
            self._changed.notify_all()
        self._end(render, error=why)
        if rendering:
            rendering.cancel()

    def close(self, timeout: float) -> None:
        """Refuse new renders and fail those that wait; give those that run `timeout` seconds. Safe to call twice.

        Those that run have the time to be tried once more, too.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._draining = True
            waiting = self._in_order()
            self._waiting.clear()
        for render in waiting:
            self._end(render, error=closing_error())
        with self._changed:
            while (
                (self._with_engine or self._waiting)
                and (left := deadline - time.monotonic()) > 0
                and self._thread is not None
            ):
                self._changed.wait(left)
            unfinished = [*self._with_engine, *self._in_order()]
            self._closed = True
            self._changed.notify_all()
        for render in unfinished:
            self.cancel(render, closing_error())
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    # The thread

    def _work(self) -> None:
        tick = min(1.0, self._stuck_after / 4)
        while True:
            with self._changed:
                if self._closed:
                    return
                engine = self._slot.engine
                render = self._next() if engine is not None else None
                if render is None:
                    self._changed.wait(tick)
                elif engine is not None:
                    if not self._with_engine:
                        self._last_progress = time.monotonic()
                    self._with_engine[render] = engine
                    render.attempt += 1
            try:
                if render is not None and engine is not None:
                    self._hand_over(engine, render)
                self._watch()
            except Exception:  # the queue must go on, whatever happens
                log.exception("dispatch")

    def _next(self) -> Render | None:
        """The render whose turn it is, taken out of the queue; its job goes to the end of the row.

        One that failed shares the engine with no other when it is tried once more: renders share steps, and what
        hangs takes along whoever is with it.
        """
        if not self._waiting or not self._has_room(self._with_engine):
            return None
        job_id, row = next(iter(self._waiting.items()))
        if self._with_engine and row[0].failures:
            return None
        render = row.popleft()
        del self._waiting[job_id]
        if row:
            self._waiting[job_id] = row
        return render

    def _has_room(self, given: Collection[Render]) -> bool:
        """Whether an engine that has `given` should be given another."""
        engine = self._slot.engine
        if engine is None or any(render.failures for render in given):  # which is tried once more by itself
            return False
        info, pictures = engine.info, sum(len(render.todo[0]) for render in given)
        return len(given) < info.most_ahead or (
            info.has_room(len(given), pictures) and sum(map(_bytes_of, given)) < MOST_WAITING_BYTES
        )

    def _hand_over(self, engine: Engine, render: Render) -> None:
        attempt, recipe = render.attempt, render.recipe
        more: dict[str, Any] = {"preset": recipe.preset} if recipe.preset else {}

        def progress(now: Progress) -> None:
            if render.attempt == attempt:
                self._last_progress = time.monotonic()
                if now.stage != "queued" and render.state == "queued":
                    self._require_as_planned(render)  # again: it may have waited for the engine
                render.progress(now)

        try:
            self._require_as_planned(render)
            colors = render.todo[0]
            future = engine.submit(
                render.decoded(), colors, seed=recipe.seed, steps=recipe.steps, progress=progress, **more
            )
        except BaseException as exc:
            self._ended(render, attempt, None, exc)
            return
        self._metrics.batch.observe(len(colors))
        with self._changed:
            render.rendering = future
            unwanted = render.attempt != attempt
        if unwanted:
            future.cancel()
        future.add_done_callback(lambda future: self._came(render, attempt, future))

    def _require_as_planned(self, render: Render) -> None:
        """See that a render that begins will be what its recipe says.

        Raises:
            OutdatedError: the engine has other weights by now.
        """
        if (now := self._slot.info().fingerprint) != render.recipe.engine:
            raise OutdatedError(f"planned for the weights {render.recipe.engine}, the engine has {now}")

    def _came(self, render: Render, attempt: int, future: Future[Pictures]) -> None:
        """Called by the engine when a part has ended, one way or the other."""
        if future.cancelled():
            self._ended(render, attempt, None, CancelledError("렌더링이 취소되었습니다. 다시 요청해 주세요."))
        elif (error := future.exception()) is not None:
            self._ended(render, attempt, None, error)
        else:
            self._ended(render, attempt, future.result(), None)

    def _ended(
        self, render: Render, attempt: int, pictures: Pictures | None, error: BaseException | None
    ) -> None:
        with self._changed:
            if render.attempt != attempt or self._with_engine.pop(render, None) is None:
                return
            self._last_progress = time.monotonic()
            again = self._again(render, pictures, error)
            self._changed.notify_all()
        if not again:
            self._end(render, error=error)

    def _again(self, render: Render, pictures: Pictures | None, error: BaseException | None) -> bool:
        """Whether there is more to do for a render, which then stands first in the queue again. Locked."""
        if pictures is not None:
            render.pictures |= pictures
            render.todo.popleft()
            if not render.todo:
                return False
        else:
            render.failures += 1
            if self._draining or render.failures >= ATTEMPTS or not _may_help(error):
                return False
            log.warning("job %s: render failed, trying once more: %s", render.job_id, error)
            self._metrics.retries.inc()
            if is_memory_error(error):  # one colour at a time needs least
                render.todo = deque((color,) for color in render.colors if color not in render.pictures)
        self._put_first(render)
        return True

    def _put_first(self, render: Render) -> None:
        render.state, render.rendering = "queued", None
        render.enter("queued")
        self._waiting.setdefault(render.job_id, deque()).appendleft(render)
        self._waiting.move_to_end(render.job_id, last=False)

    def _end(self, render: Render, error: BaseException | None) -> None:
        render.state = "ended"
        render.enter("ended")
        render.photo = None
        with contextlib.suppress(Exception):  # ended already
            if error is None:
                self._metrics.renders.labels("completed").inc()
                render.result.set_result(render.pictures)
            else:
                code = error.code if isinstance(error, LumiplyError) else "internal_error"
                self._metrics.renders.labels(code).inc()
                render.result.set_exception(error)

    # The watchdog

    def _watch(self) -> None:
        """Notice an engine that is dead or stuck; replace it, and try again what it had."""
        engine = self._slot.engine
        if engine is not None:
            if not getattr(engine, "alive", True):
                self._replace(engine, "worker died")
            elif self.stalled_s > self._stuck_after:
                self._replace(engine, f"no progress for {self._stuck_after:g} s")
        elif self._slot.state == "failed":
            with self._changed:
                waiting = self._in_order()
                self._waiting.clear()
            for render in waiting:
                self._end(render, error=EngineClosedError("the engine failed"))

    def _replace(self, engine: Engine, reason: str) -> None:
        log.error("engine replaced: %s", reason)
        self._metrics.restarts.inc()
        with self._changed:
            had = [render for render, owner in self._with_engine.items() if owner is engine]
        for render in reversed(had):
            if render.state == "running":
                self._ended(render, render.attempt, None, StuckError(f"the engine stopped: {reason}"))
            else:  # had not begun: not its fault
                with self._changed:
                    if self._with_engine.pop(render, None) is not None:
                        render.attempt += 1
                        self._put_first(render)
        self._slot.restart(engine, reason)  # last: closing an engine cancels what it still has

    # Small things, locked

    def _count_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _left_waiting(self, new: Render) -> int:
        """How many will wait, `new` among them, once the engine has been given what it has room for."""
        given, left = list(self._with_engine), deque([*self._in_order(), new])
        while left and self._has_room(given):
            given.append(left.popleft())
        return len(left)

    def _bytes_waiting(self) -> int:
        waiting = self._in_order()
        for render in waiting[_KEPT_DECODED:]:
            render.let_go_of_pixels()
        return sum(map(_bytes_of, waiting))

    def _take_out(self, render: Render) -> None:
        row = self._waiting.get(render.job_id)
        if row is not None and render in row:
            row.remove(render)
            if not row:
                del self._waiting[render.job_id]


def _bytes_of(render: Render) -> int:
    """Of its photo, decoded or as a file."""
    photo = render.photo
    return photo.width * photo.height * 3 if photo is not None else len(render.photo_file.result())


def is_memory_error(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lack of memory, whoever says so."""
    while error is not None:
        if isinstance(error, (DeviceMemoryError, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
            return True
        error = error.__cause__
    return False


def _may_help(error: BaseException | None) -> bool:
    """Whether trying again may end otherwise: not if the request is at fault, or the engine is full or closing."""
    return isinstance(error, RenderError) or not isinstance(error, LumiplyError)


def closing_error() -> EngineClosedError:
    """What those are told who ask for a render of a server that shuts down."""
    return EngineClosedError("서버가 종료되고 있습니다. 잠시 후 다시 요청해 주세요.")
