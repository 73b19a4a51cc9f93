"""A thread that is about to wait says so, and whoever gave it its work may let others work meanwhile.

Code that waits for a disk, for another machine or for a render writes `with waiting():` around it, whoever called it.
Where nobody wants to know, nothing happens.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

_of_thread: Final = threading.local()


def tell(listener: Callable[[], AbstractContextManager[None]]) -> None:
    """From now on, enter `listener()` whenever the calling thread waits, and leave it afterwards."""
    _of_thread.listener = listener


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Around what takes long without computing. A lock held meanwhile must itself be waited for in such a block:
    when this one ends, it may take others' work to let the thread go on.
    """
    listener: Callable[[], AbstractContextManager[None]] | None = getattr(_of_thread, "listener", None)
    with contextlib.nullcontext() if listener is None else listener():
        yield
