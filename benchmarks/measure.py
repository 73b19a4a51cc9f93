"""What all benchmarks share: a clock that waits for the device, the machine in words, results that grow on disk."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.provenance import commit
from lumiply.files import write_whole


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(
    function: Callable[[], Any], device: torch.device, repeats: int, warm_up: int = 1
) -> dict[str, float]:
    """Median, least and most of `repeats` runs, each waited for, after `warm_up` runs that are not counted."""
    for _ in range(warm_up):
        function()
    times = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "repeats": repeats}


def flop(function: Callable[[], Any]) -> int:
    """Floating-point operations of convolutions, matrix products and attention in one run."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of a few."""
    size = 8192 if device.type == "cuda" else 1536
    a = torch.randn(size, size, device=device).to(dtype)
    best = seconds(lambda: a @ a, device, repeats=10, warm_up=3)["min"]
    return 2 * size**3 / best


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """GB of GPU memory at the most, held by tensors and reserved in all; empty on a CPU."""
    found: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found["allocated_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        found["reserved_gb"] = torch.cuda.max_memory_reserved(device) / 1e9


def machine(device: torch.device) -> dict[str, Any]:
    """Where and when a result was read."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": name,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


class Results:
    """A tree of results that is written after every entry, so that a run that is cut short keeps what it has."""

    def __init__(self, path: Path | None, head: dict[str, Any]) -> None:
        self.path = path
        self.tree: dict[str, Any] = dict(head)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, value: Any) -> None:
        self.tree[name] = value
        if self.path is not None:
            write_whole(self.path, (json.dumps(self.tree, indent=1) + "\n").encode())


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; numbers with three digits that count."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
    return "" if value is None else str(value)
