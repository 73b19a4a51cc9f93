"""SIGHUP tells a running server to read the adaptors again, as it tells many daemons to read their configuration."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from lumiply.errors import LumiplyError
from lumiply.server.slot import EngineSlot

log = logging.getLogger(__name__)


@contextlib.contextmanager
def reload_on_hangup(slot: EngineSlot) -> Iterator[None]:
    """While this lasts, SIGHUP reloads the adaptors of the slot's engine. Systems without SIGHUP do without."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return

    def on_hangup(number: int, frame: FrameType | None) -> None:
        # on a thread of its own: it waits for the render that runs
        threading.Thread(target=reload_adaptors, args=(slot,), name="lumiply-reload", daemon=True).start()

    former = signal.signal(signal.SIGHUP, on_hangup)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, former)


def reload_adaptors(slot: EngineSlot) -> None:
    """Reload them and log the outcome; whatever goes wrong, the server goes on with what it has."""
    try:
        reload = getattr(slot.get(), "reload_adaptors", None)
        if reload is None:
            log.error("this engine cannot reload adaptors; start the server again")
            return
        log.info("adaptors reloaded: %s", reload().weights)
    except LumiplyError as exc:
        log.error("adaptors not reloaded: %s", exc)
    except Exception:
        log.exception("adaptors not reloaded")
