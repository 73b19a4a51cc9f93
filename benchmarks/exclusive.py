"""One process at a time on a GPU that several share, so that none measures another's work."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType


class Exclusive:
    """A lock on a file; the system lets go of it when a process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._held = False

    def acquire(self) -> None:
        """Wait until nobody else has it; nothing to do if it is ours already."""
        if not self._held:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._held = True

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
