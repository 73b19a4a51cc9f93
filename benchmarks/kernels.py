"""Which kernels take the time of a function on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from benchmarks.measure import synchronize

#: Words in the names of kernels, and what these do; the first that fits counts.
KINDS: Final = (
    ("fused by the compiler", ("triton",)),
    ("layout copies", ("nchwtonhwc", "nhwctonchw", "transpose")),
    ("attention", ("flash", "fmha", "sdpa", "attention")),
    ("convolution", ("conv", "fprop", "dgrad", "cudnn")),
    ("matrix product", ("gemm", "nvjet", "cutlass", "cublas", "splitk")),
    ("norm", ("norm", "moments")),
    ("copy", ("copy", "memcpy", "cat", "memset")),
)


def kernels(function: Callable[[], Any], device: torch.device, runs: int = 3) -> dict[str, Any]:
    """Milliseconds a run by kind of kernel, and the longest kernels themselves."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(runs):
            function()
        synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = []
    for event in seen.key_averages():
        if event.device_type == wanted:
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found.append((spent / 1e3 / runs, event.count / runs, event.key))
    kinds: dict[str, list[float]] = {}
    for ms, count, name in found:
        total = kinds.setdefault(kind_of(name), [0.0, 0.0])
        total[0], total[1] = total[0] + ms, total[1] + count
    return {
        "by_kind": {kind: {"ms": ms, "kernels": count} for kind, (ms, count) in kinds.items()},
        "longest": [{"ms": ms, "runs": n, "name": name[:110]} for ms, n, name in sorted(found)[:-61:-1]],
    }


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), "other")
