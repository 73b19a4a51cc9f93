"""One process at a time on a GPU that several share, so that none measures another's work."""

from __future__ import annotations

import fcntl
import math
import time
from pathlib import Path
from types import TracebackType


class Exclusive:
    """A lock on a file; the system lets go of it when a process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._held = False

    def acquire(self, patience: float = math.inf) -> bool:
        """Wait until nobody else has it, `patience` seconds at the most; whether it is ours."""
        until = time.monotonic() + patience
        while not self._held:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = True
            except BlockingIOError:
                if time.monotonic() >= until:
                    break
                time.sleep(0.02)
        return self._held

    def release(self) -> None:
        if self._held:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._held = False

    def close(self) -> None:
        self._file.close()
        self._held = False

    def __enter__(self) -> Exclusive:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
