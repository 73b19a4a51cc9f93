"""What those who asked for a render are told when it fails."""

from __future__ import annotations

import logging
import traceback

import torch

from lumiply.errors import DeviceMemoryError, LumiplyError, RenderError

log = logging.getLogger(__name__)


def reason_of(error: Exception) -> LumiplyError:
    """What those who asked are told of it; what they cannot mend is logged.

    The error keeps nothing of the attempt: its traceback would keep all tensors of it until a collection of garbage.
    """
    reason: LumiplyError
    if isinstance(error, LumiplyError):
        reason = error
    elif isinstance(error, torch.OutOfMemoryError):
        log.error("out of memory", exc_info=error)
        reason = DeviceMemoryError("the device ran out of memory; ask for fewer colours at once")
        reason.__cause__ = error
    else:
        log.error("a render failed", exc_info=error)
        reason = wrapped("the render failed inside the model; the server's log says why", error)
    let_go(error)
    return reason


def let_go(error: BaseException) -> None:
    """Clear what the frames hold through which the error, and those it came from, passed; running ones go on."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__


def wrapped(sentence: str, cause: Exception) -> RenderError:
    """An error that tells the sentence and keeps its cause."""
    error = RenderError(sentence)
    error.__cause__ = cause
    return error
