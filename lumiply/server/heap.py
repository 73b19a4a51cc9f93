"""Garbage collection that stops nobody for long.

A full collection looks at every object with the interpreter to itself: 0.1 to 0.2 s once torch and a model are
loaded, and every answer waits for it. What is there when an engine begins to serve is there to stay, so it is left
out of later collections (`gc.freeze`), which then take milliseconds.

What is left out is not freed either, should it become garbage that refers to itself, as engines do. So each time that
an engine comes or goes, all is looked at once more. Answers and renders wait for that one collection, and this cannot
be avoided: CPython collects with the interpreter to itself and in one go, whichever thread asks for it. Background
threads ask for it, so that it comes once, and not whenever requests have made enough objects.
"""

from __future__ import annotations

import gc
import threading
from typing import Final

_LOCK: Final = threading.Lock()  # of two collections at once, Python drops one
_settled = False


def settle() -> None:
    """Collect once, then leave all that lives out of later collections. To be called when an engine has come."""
    global _settled
    with _LOCK:
        _settled = True
        _collect_and_freeze()


def settle_again() -> None:
    """As `settle`, if that was called and not undone: an engine has gone, or another has come."""
    with _LOCK:
        if _settled:
            _collect_and_freeze()


def unsettle() -> None:
    """Let everything be collected again: nothing is served any more."""
    global _settled
    with _LOCK:
        _settled = False
        gc.unfreeze()


def _collect_and_freeze() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()
