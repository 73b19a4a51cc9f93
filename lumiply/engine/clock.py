"""How long the parts of a start take, for the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say afterwards how long what happens within took."""
    began = time.perf_counter()
    yield
    log.debug("%s: %.2f s", what, time.perf_counter() - began)
