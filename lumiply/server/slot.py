"""Where a server finds its engine: not there yet, there, being replaced, or why it never will be."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Literal

from lumiply.engine.protocol import Engine, EngineInfo
from lumiply.errors import EngineClosedError, LoadingError, LumiplyError
from lumiply.server import heap

log = logging.getLogger(__name__)

SlotState = Literal["loading", "ready", "failed"]

#: An engine is replaced this often within this many seconds; then the slot gives up.
MOST_RESTARTS: Final = 3
RESTARTS_WITHIN_S: Final = 1800.0

#: Seconds in which everybody lets go of an engine that has ended, before it is looked for among the garbage; and at
#: most, as that is done again and again, half as often each time.
LET_GO_S: Final = 0.5
MOST_LET_GO_S: Final = 60.0


class EngineSlot:
    """Holds at most one engine, so that a server can answer before the model is loaded. Thread-safe."""

    def __init__(self, engine: Engine | None = None, build: Callable[[], Engine] | None = None) -> None:
        """`build` makes another engine, should this one have to be replaced."""
        self._engine = engine
        self._build = build
        self._former: EngineInfo | None = None  # what the last engine said of itself when it had to go
        self._error: BaseException | None = None
        self._reason = ""
        self._restarts: deque[float] = deque()
        self._closed = False
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._first: Future[EngineInfo] = Future()
        if engine is not None:
            self._settled.set()
            self._first.set_result(engine.info)

    @property
    def first(self) -> Future[EngineInfo]:
        """What the first engine says of itself, once it is there, or why none came. Not to be cancelled."""
        return self._first

    @property
    def engine(self) -> Engine | None:
        """What stands in the slot now."""
        return self._engine

    @property
    def state(self) -> SlotState:
        """What stands in the slot now, in a word."""
        if self._engine is not None:
            return "ready"
        return "failed" if self._settled.is_set() else "loading"

    @property
    def reason(self) -> str:
        """Why the last engine was replaced; empty if none was."""
        return self._reason

    @property
    def error(self) -> BaseException | None:
        """Why there is no engine; for the operator, not for clients."""
        return self._error

    def get(self) -> Engine:
        """The engine.

        Raises:
            LoadingError: it is still loading.
            EngineClosedError: loading it failed.
        """
        engine = self._engine
        if engine is not None:
            return engine
        if self._settled.is_set():
            raise EngineClosedError(
                "모델을 불러오지 못했습니다. 서버를 운영하는 분께 로그 확인을 부탁해 주세요."
            )
        raise LoadingError

    def info(self) -> EngineInfo:
        """What runs here, as it is now, or ran until it had to be replaced a moment ago.

        Raises:
            LoadingError, EngineClosedError: as `get`, if nothing ever ran.
        """
        engine = self._engine
        if engine is not None:
            return engine.info
        if self._former is not None and self.state != "failed":
            return self._former
        return self.get().info

    def put(self, engine: Engine) -> None:
        """Fill the slot."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._engine = engine
                self._settled.set()
                if not self._first.done():
                    self._first.set_result(engine.info)
        if closed:
            engine.close(0)

    def fail(self, error: BaseException) -> None:
        """Say that no engine will come."""
        with self._lock:
            self._error = error
            self._settled.set()
            if not self._first.done():
                self._first.set_exception(error)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the engine is there or has failed; False if `timeout` seconds passed before."""
        return self._settled.wait(timeout)

    def load(self, build: Callable[[], Engine]) -> threading.Thread:
        """Fill the slot with `build()` from a background thread, which is returned, started."""
        self._build = build

        def work() -> None:
            try:
                engine = build()
                if self._restarts:
                    heap.settle_again()
                else:
                    heap.settle()
                self.put(engine)
            except LumiplyError as exc:
                log.error("engine not loaded: %s", exc)
                self.fail(exc)
            except BaseException as exc:
                log.exception("engine not loaded")
                self.fail(exc)

        thread = threading.Thread(target=work, name="lumiply-load", daemon=True)
        thread.start()
        return thread

    def restart(self, engine: Engine, reason: str) -> None:
        """Replace `engine`, if it still stands here, by another of its kind; from a background thread.

        Without a way to build one, or after too many in a short time, the slot has failed.
        """
        with self._lock:
            if self._engine is not engine or self._closed:
                return
            self._engine, self._former, self._reason = None, engine.info, reason
            now = time.monotonic()
            self._restarts.append(now)
            while now - self._restarts[0] > RESTARTS_WITHIN_S:
                self._restarts.popleft()
            build = self._build if len(self._restarts) <= MOST_RESTARTS else None
            if build is not None:
                self._settled.clear()
        threading.Thread(target=_see_off, args=([engine],), name="lumiply-give-up", daemon=True).start()
        if build is not None:
            self.load(build)
        else:
            self.fail(
                EngineClosedError(f"the engine stopped ({reason}) and was not replaced; restart the server")
            )

    def close(self, timeout: float | None = None) -> None:
        """Close the engine, now or when it has been loaded. Safe to call twice."""
        with self._lock:
            self._closed = True
            engine = self._engine
        if engine is not None:
            engine.close(timeout)


def _see_off(held: list[Engine]) -> None:
    """Close an engine, and see that it goes: one that hangs, once it no longer does; one that others hold, then.

    Until it has gone it may stay among what garbage collections leave out, as nothing could be freed by them anyway.

    Args:
        held: the engine, which is taken out: a thread keeps its arguments for as long as it runs.
    """
    engine = held.pop()
    for timeout in (0, None):  # what waits ends at once, what hangs may take its time
        with contextlib.suppress(Exception):
            engine.close(timeout)
    left = weakref.ref(engine)
    del engine
    pause = LET_GO_S
    while left() is not None:
        time.sleep(pause)
        heap.settle_again()
        pause = min(2 * pause, MOST_LET_GO_S)
