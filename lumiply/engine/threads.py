"""How many threads a processor is given, and which of them go first."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Final

import torch

#: Where Linux says how much processor time this container may have: "QUOTA PERIOD" in microseconds, or "max PERIOD".
CGROUP_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
#: What renders on a processor is nicer by this than what answers requests (19 is the most).
NICER: Final = 10


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


def give_way() -> None:
    """Let the calling thread, and those that it starts from now on, give way to others, of other programs as well.

    On Linux, where niceness belongs to a thread; elsewhere nothing happens. Where nobody else wants the processor,
    a thread is as fast as before. There is no way back.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # where a sandbox forbids it
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICER))
