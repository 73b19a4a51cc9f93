"""Doing a batch in as few pieces as memory allows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class BatchLimit:
    """How many pictures are computed at once. Out of memory halves it, for good, and the work goes on.

    Attributes:
        most: the present limit.
    """

    def __init__(self, most: int, task: str) -> None:
        """Begin with `most` at once; `task` completes "not enough memory for ... pictures at once in"."""
        self.most = most
        self._task = task

    def run(self, function: Callable[[int, int], Result], count: int) -> list[Result]:
        """`function(start, stop)` for pieces of [0, count), in order.

        Raises:
            torch.OutOfMemoryError: there is not even room for one.
        """
        results: list[Result] = []
        start = 0
        while start < count:
            stop = min(start + self.most, count)
            try:
                results.append(function(start, stop))
                start = stop
                continue
            except torch.OutOfMemoryError:
                if stop - start == 1:
                    raise
            # here, not in the handler: the error's traceback keeps the failed attempt's tensors
            self.most = (stop - start) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning(
                "not enough memory for %d pictures at once in %s; at most %d from now on",
                stop - start,
                self._task,
                self.most,
            )
        return results
