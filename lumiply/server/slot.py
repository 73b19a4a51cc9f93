"""Where a server finds its engine: not there yet, there, or why it never will be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from lumiply.engine.protocol import Engine
from lumiply.errors import EngineClosedError, LoadingError, LumiplyError

log = logging.getLogger(__name__)

SlotState = Literal["loading", "ready", "failed"]


class EngineSlot:
    """Holds at most one engine, so that a server can answer before the model is loaded. Thread-safe."""

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        self._error: BaseException | None = None
        self._settled = threading.Event()
        if engine is not None:
            self._settled.set()

    @property
    def state(self) -> SlotState:
        """What stands in the slot now."""
        if self._engine is not None:
            return "ready"
        return "failed" if self._settled.is_set() else "loading"

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

    def put(self, engine: Engine) -> None:
        """Fill the slot."""
        self._engine = engine
        self._settled.set()

    def fail(self, error: BaseException) -> None:
        """Say that no engine will come."""
        self._error = error
        self._settled.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the engine is there or has failed; False if `timeout` seconds passed before."""
        return self._settled.wait(timeout)

    def load(self, build: Callable[[], Engine]) -> threading.Thread:
        """Fill the slot with `build()` from a background thread, which is returned, started."""

        def work() -> None:
            try:
                self.put(build())
            except LumiplyError as exc:
                log.error("engine not loaded: %s", exc)
                self.fail(exc)
            except BaseException as exc:
                log.exception("engine not loaded")
                self.fail(exc)

        thread = threading.Thread(target=work, name="lumiply-load", daemon=True)
        thread.start()
        return thread
