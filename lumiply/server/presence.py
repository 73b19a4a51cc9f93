"""Signs of life of the servers that share a storage: each writes one every few seconds, and others see how old it is.

Ages are differences between signs, by the storage's own clock: the servers' clocks need not agree.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from datetime import timedelta
from typing import Final

from lumiply.errors import LumiplyError
from lumiply.server.storage import Signs

log = logging.getLogger(__name__)

#: Seconds between two signs.
PERIOD_S: Final = 15.0
#: A server whose last sign is as much older than the newest of any server has died.
LOST: Final = timedelta(seconds=4 * PERIOD_S)
#: Its sign is then kept as long.
FORGOTTEN: Final = timedelta(days=1)


class Presence:
    """Tells others that this server lives, once started, and whether they do."""

    def __init__(self, signs: Signs) -> None:
        self.server = uuid.uuid4().hex
        self._signs = signs
        self._signed = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Give a sign now and every few seconds. Safe to call twice."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="lumiply-presence", daemon=True)
            self._thread.start()

    def require_sign(self) -> None:
        """See that there is one, before others are told of anything that this server does.

        Raises:
            OSError, StorageUnavailableError, StorageFullError: it cannot be written.
        """
        if not self._signed:
            self._signs.sign_life(self.server)
            self._signed = True

    def lives(self, server: str) -> bool:
        """Whether a server has given a sign of late.

        Raises:
            OSError, StorageUnavailableError: they cannot be read.
        """
        signs = self._signs.signs_of_life()
        return server in signs and max(signs.values()) - signs[server] < LOST

    def close(self) -> None:
        """Give no more, and take back what was given. Safe to call twice."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(5)
        if self._signed:
            self._signed = False
            with contextlib.suppress(OSError, LumiplyError):
                self._signs.forget_server(self.server)

    def _work(self) -> None:
        swept = False
        while not self._closed.is_set():
            try:
                self._signs.sign_life(self.server)
                self._signed = True
                if not swept:
                    self._sweep()
                    swept = True
            except (OSError, LumiplyError) as exc:  # whoever asks for results is told of it
                log.debug("no sign of life: %s", exc)
            self._closed.wait(PERIOD_S)

    def _sweep(self) -> None:
        signs = self._signs.signs_of_life()
        for server, when in signs.items():
            if max(signs.values()) - when > FORGOTTEN:
                self._signs.forget_server(server)
