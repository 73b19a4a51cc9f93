"""Old results go: by age, and by how much all of them take; the oldest first, never a job under way."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from lumiply.errors import StorageUnavailableError
from lumiply.server.metrics import Metrics
from lumiply.server.store import JobStore

log = logging.getLogger(__name__)

#: Seconds between two sweeps.
PERIOD_S: Final = 120.0
#: The same where each server lists what all of them share, which costs a little.
SHARED_PERIOD_S: Final = 1800.0


class Sweeper:
    """Removes jobs from a store, in the background once started."""

    def __init__(
        self,
        store: JobStore,
        metrics: Metrics,
        is_active: Callable[[str], bool],
        *,
        days: float,
        gigabytes: float,
    ) -> None:
        """`days` and `gigabytes` (1e9 bytes) are the limits; 0 is none."""
        self._store, self._metrics, self._is_active = store, metrics, is_active
        self._seconds, self._bytes = days * 86_400, gigabytes * 1e9
        self._stay: set[str] = set()  # jobs that could not be removed
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sweep now and every few minutes."""
        if self._thread is None and (self._seconds or self._bytes):
            self._thread = threading.Thread(target=self._work, name="lumiply-sweep", daemon=True)
            self._thread.start()

    def sweep(self, now: float | None = None) -> list[str]:
        """Remove what is over the limits; the names of the jobs that went, oldest first.

        Args:
            now: seconds since 1970, for tests.
        """
        now = time.time() if now is None else now
        gone: list[str] = []
        # Again, because what is shared goes with the last of its jobs alone.
        while more := [job_id for job_id in self._sweep_once(now) if job_id not in gone]:
            gone += more
        if gone:
            self._metrics.swept.inc(len(gone))
            log.info("%d jobs removed (limits on age and size), the oldest %s", len(gone), gone[0])
        return gone

    def _sweep_once(self, now: float) -> list[str]:
        stocks = sorted(self._store.stock())
        total = sum(stock.size for stock in stocks)
        gone: list[str] = []
        for stock in stocks:
            if self._is_active(stock.job_id):
                continue
            too_old = self._seconds and now - stock.updated > self._seconds
            too_much = self._bytes and total > self._bytes
            if not too_old and not too_much:
                break
            if self._remove(stock.job_id):
                total -= stock.size
                gone.append(stock.job_id)
        return gone

    def _remove(self, job_id: str) -> bool:
        """Remove a job unless something is under way for it; whether it is gone. One that stays is told of once."""
        try:
            return self._store.remove(job_id, unless=functools.partial(self._runs, job_id))
        except OSError as exc:
            if job_id not in self._stay:
                self._stay.add(job_id)
                log.warning("job %s stays beyond its time, remove it by hand: %s", job_id, exc)
            return False

    def close(self) -> None:
        """Stop. Safe to call twice."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)

    def _runs(self, job_id: str) -> bool:
        """Whether something is under way for a job, here or on another server."""
        if self._is_active(job_id):
            return True
        record = self._store.record(job_id)
        return record is not None and self._store.runs_elsewhere(record)

    def _work(self) -> None:
        while not self._closed:
            try:
                self.sweep()
            except StorageUnavailableError as exc:
                log.error("%s", exc)
            except Exception:
                log.exception("sweep")
            self._wake.wait(SHARED_PERIOD_S if self._store.files.shared else PERIOD_S)
