"""Requests that came before the first engine: others can see them in line, and call them off."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from lumiply.errors import CancelledError
from lumiply.server.order import Order
from lumiply.server.record import now_iso


@dataclass(eq=False)
class EarlyOrder:
    """An order that waits for the first engine.

    Attributes:
        came: ISO 8601, UTC.
        called_off: done once nobody wants it any more; its exception says why.
    """

    order: Order
    came: str = field(default_factory=now_iso)
    called_off: Future[None] = field(default_factory=Future)


class EarlyOrders:
    """All of them, in the order of coming. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: list[EarlyOrder] = []

    @contextlib.contextmanager
    def added(self, order: Order) -> Iterator[EarlyOrder]:
        """Let others see an order while the block runs."""
        early = EarlyOrder(order)
        with self._lock:
            self._orders.append(early)
        try:
            yield early
        finally:
            with self._lock, contextlib.suppress(ValueError):  # taken
                self._orders.remove(early)

    def take(self, order: Order) -> None:
        """Take an order out, if it is here: from now on its tickets are seen in its place.

        Raises:
            CancelledError: it has been called off.
        """
        with self._lock:
            early = next((early for early in self._orders if early.order is order), None)
            if early is not None and not early.called_off.done():
                self._orders.remove(early)
        if early is not None and early.called_off.done():
            early.called_off.result()

    def of(self, job_id: str) -> list[EarlyOrder]:
        """Those of a job that are still wanted."""
        with self._lock:
            return [
                early
                for early in self._orders
                if early.order.job_id == job_id and not early.called_off.done()
            ]

    def place(self, job_id: str) -> int:
        """How many jobs came before this one, plus one; 0 if it is not here."""
        with self._lock:
            jobs = dict.fromkeys(e.order.job_id for e in self._orders if not e.called_off.done())
        return next((place for place, other in enumerate(jobs, 1) if other == job_id), 0)

    def call_off(self, job_id: str, why: CancelledError) -> None:
        """End those of a job that are there now."""
        for early in self.of(job_id):
            with contextlib.suppress(InvalidStateError):  # by somebody else, a moment ago
                early.called_off.set_exception(why)
