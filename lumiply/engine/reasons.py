"""What those who asked for a render are told when it fails."""

from __future__ import annotations

import logging

import torch

from lumiply.errors import DeviceMemoryError, LumiplyError, RenderError

log = logging.getLogger(__name__)


def reason_of(error: Exception) -> LumiplyError:
    """What those who asked are told of it; what they cannot mend is logged."""
    if isinstance(error, LumiplyError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        log.error("out of memory", exc_info=error)
        reason = DeviceMemoryError("the device ran out of memory; ask for fewer colours at once")
        reason.__cause__ = error
        return reason
    log.error("a render failed", exc_info=error)
    return wrapped("the render failed inside the model; the server's log says why", error)


def wrapped(sentence: str, cause: Exception) -> RenderError:
    """An error that tells the sentence and keeps its cause."""
    error = RenderError(sentence)
    error.__cause__ = cause
    return error
