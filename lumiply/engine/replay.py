"""Functions of tensors that are launched as one: a stage of many small kernels else waits for Python at each."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from lumiply.engine.stepper import Capture

log = logging.getLogger(__name__)


class Replayed:
    """A function, captured when it is first called and replayed from then on, always for tensors of the same shapes.

    All calls come from one thread, the device's owner.
    """

    def __init__(self, function: Callable[..., Tensor], capture: Capture) -> None:
        self._function, self._capture = function, capture
        self._held: list[Tensor] = []  # what is read, whatever is given
        self._replay: Callable[[], Tensor] | None = None
        self._is_capturable = True

    def __call__(self, *given: Tensor) -> Tensor:
        """What the function gives, for the caller to keep.

        Raises:
            torch.OutOfMemoryError: there was no room, not even without a capture.
        """
        if self._is_capturable and self._replay is None:
            self._held = [tensor.clone() for tensor in given]
            try:
                self._replay = self._capture(lambda: self._function(*self._held))
            except torch.OutOfMemoryError as error:
                log.warning("no memory to capture a stage, which is launched kernel by kernel: %s", error)
                self._held = []  # and tried again with the next call
            except Exception:
                log.exception("a stage is not captured; it is launched kernel by kernel")
                self._is_capturable, self._held = False, []
        if self._replay is None:
            return self._function(*given)
        for held, tensor in zip(self._held, given, strict=True):
            held.copy_(tensor)
        return self._replay().clone()
