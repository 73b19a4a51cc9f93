"""How far the thread that launches work may run ahead of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Event(Protocol):
    """A place in a stream of work, as `torch.cuda.Event`."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Pace:
    """Called after each piece of work is launched: waits until no earlier piece is under way.

    So the GPU finds the next piece waiting when it ends one, and whoever arrives joins at the one after that.
    """

    def __init__(self, device: torch.device, event: Callable[[], Event] | None = None) -> None:
        """On a CPU, where work is done when its call returns, there is nothing to wait for."""
        self._event = event or (torch.cuda.Event if device.type == "cuda" else None)
        self._last: Event | None = None

    def __call__(self) -> None:
        if self._event is None:
            return
        before, self._last = self._last, self._event()  # on the stream of the thread that launches
        self._last.record()
        if before is not None:
            before.synchronize()
