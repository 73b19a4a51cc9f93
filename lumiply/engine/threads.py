"""How many threads a processor is given, and in which order they work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")

#: Where Linux says how much processor time this container may have: "QUOTA PERIOD" in microseconds, or "max PERIOD".
CGROUP_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(quota_file: Path = CGROUP_QUOTA) -> int:
    """Processors that this process may use: those it is bound to, and no more than its container's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        share = bound if quota == "max" else round(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or of another form
        share = bound
    return max(1, min(bound, share))


def set_threads() -> None:
    """Let torch use no more threads than there are processors for them, which it does not find out by itself."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def after(
    first: Future[Any], function: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
) -> Result:
    """What `function` returns, called once `first` is there or has failed."""
    wait([first])
    return function(*given, **named)
