"""When nothing is rendered: work that would hold renders up, and can wait, asks for that.

A network that is launched operation by operation needs Python's lock a thousand times a step. Whoever imports,
unpickles or loads libraries meanwhile makes it wait each time, on a thread of its own just as well.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

#: An engine that has had no pause for as long is not waited for: it gets its compiled code all the same.
LIMIT_S: Final = 5.0
#: Without a render for as long, the next one is not about to come: people and programs ask one thing after another.
QUIET_S: Final = 1.0


class Pauses:
    """Counts the renders of an engine that are under way. Its methods may be called from any thread."""

    def __init__(self, *, quiet: float = QUIET_S, limit: float = LIMIT_S) -> None:
        """Nothing is under way; the first pause begins `quiet` seconds from now.

        Args:
            quiet: seconds from the end of the last render to the beginning of a pause.
            limit: seconds without a pause after which none is waited for, until there has been one.
        """
        self._quiet, self._limit = quiet, limit
        self._changed = threading.Condition()
        self._under_way = 0
        self._idle_since = self._busy_since = time.monotonic()

    def enter(self) -> None:
        """A render begins, or waits for its turn."""
        with self._changed:
            if self._begins_in() <= 0:
                self._busy_since = time.monotonic()
            self._under_way += 1

    def leave(self) -> None:
        """A render has ended, in whatever way."""
        with self._changed:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle_since = time.monotonic()
                self._changed.notify_all()

    def wait(self, given_up: Callable[[], bool]) -> None:
        """Return in a pause, at once if it is one; or beyond the limit; or when `given_up` (see `wake`)."""
        with self._changed:
            while not given_up() and (left := min(self._begins_in(), self._ends_in())) > 0:
                self._changed.wait(left)

    def wake(self) -> None:
        """Those who wait look again whether they have given up."""
        with self._changed:
            self._changed.notify_all()

    def _begins_in(self) -> float:
        """Seconds until there is a pause, if no render begins."""
        return math.inf if self._under_way else self._idle_since + self._quiet - time.monotonic()

    def _ends_in(self) -> float:
        """Seconds until nobody waits any more, if there is no pause."""
        return self._busy_since + self._limit - time.monotonic()
