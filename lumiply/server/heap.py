"""Garbage collection that stops nobody for long.

A full collection looks at every object with the interpreter to itself: 0.1 to 0.2 s once torch and a model are
loaded, and every answer waits for it. What is there when an engine begins to serve is there to stay, so it is left
out of later collections (`gc.freeze`), which then take milliseconds.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Collect once, then leave all that lives out of later collections. To be called when an engine has come."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Let everything be collected again: an engine is about to go."""
    gc.unfreeze()
