"""Old results go: by age, and by how much all of them take; the oldest first, never a job under way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from lumiply.server.metrics import Metrics
from lumiply.server.store import JobStore

log = logging.getLogger(__name__)

#: Seconds between two sweeps.
PERIOD_S: Final = 120.0


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
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sweep now and every two minutes."""
        if self._thread is None and (self._seconds or self._bytes):
            self._thread = threading.Thread(target=self._work, name="lumiply-sweep", daemon=True)
            self._thread.start()

    def sweep(self, now: float | None = None) -> list[str]:
        """Remove what is over the limits; the names of the jobs that went, oldest first.

        Args:
            now: seconds since 1970, for tests.
        """
        now = time.time() if now is None else now
        kept = sorted(self._jobs())
        total = sum(size for _, size, _ in kept)
        gone: list[str] = []
        for updated, size, job_id in kept:
            too_old = self._seconds and now - updated > self._seconds
            too_much = self._bytes and total > self._bytes
            if not too_old and not too_much:
                break
            if self._store.remove(job_id, unless=lambda job_id=job_id: self._is_active(job_id)):  # type: ignore[misc]
                total -= size
                gone.append(job_id)
        if gone:
            self._metrics.swept.inc(len(gone))
            log.info("%d jobs removed (limits on age and size), the oldest %s", len(gone), gone[0])
        return gone

    def close(self) -> None:
        """Stop. Safe to call twice."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)

    def _jobs(self) -> list[tuple[float, int, str]]:
        """(seconds since 1970 of the last change, bytes, name) of all jobs of ours."""
        found = []
        for job_id in self._store.job_ids():
            record = self._store.record(job_id)
            if record is not None and not self._is_active(job_id):
                updated = datetime.fromisoformat(record.updated).timestamp()
                found.append((updated, sum(record.files.values()), job_id))
        return found

    def _work(self) -> None:
        while not self._closed:
            try:
                self.sweep()
            except Exception:
                log.exception("sweep")
            self._wake.wait(PERIOD_S)
