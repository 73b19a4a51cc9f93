"""`waiting`: a thread says that it waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from lumiply.waiting import tell, waiting


def test_where_nobody_wants_to_know_nothing_happens() -> None:
    with waiting():
        pass


def test_a_listener_hears_when_its_thread_begins_and_ends_to_wait_whatever_happens() -> None:
    heard: list[str] = []

    @contextlib.contextmanager
    def listener() -> Iterator[None]:
        heard.append("begins")
        try:
            yield
        finally:
            heard.append("ends")

    def work() -> None:
        tell(listener)
        with waiting():
            heard.append("waits")
        with pytest.raises(OSError, match="gone"), waiting():
            raise OSError("gone")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with waiting():  # another thread
        pass
    assert heard == ["begins", "waits", "ends", "begins", "ends"]
