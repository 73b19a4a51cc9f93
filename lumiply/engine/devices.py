"""Which GPU a thread means by what names none, such as a stream, an event or pinned memory."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def settle_on(device: torch.device) -> None:
    """From now on, this thread means `device`; for threads of our own. Without effect for a CPU, and for any GPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def on(device: torch.device) -> AbstractContextManager[object]:
    """Within, this thread means `device`. Without effect for a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
