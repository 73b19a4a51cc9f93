"""Figures of a running server, for Prometheus: `GET /metrics`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_STAGE_BUCKETS: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class _Gauges(Collector):
    """Figures that are read when somebody asks."""

    def __init__(self) -> None:
        self.readers: dict[str, tuple[str, Callable[[], float]]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, (help, read) in self.readers.items():
            yield GaugeMetricFamily(name, help, value=read())
        yield from _gpu_memory()


class Metrics:
    """The figures of one server. Each server has its own, so several in a process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges = _Gauges()
        self._registry.register(self._gauges)
        counter, histogram = self._counter, self._histogram
        self.requests = counter("lumiply_http_requests", "Requests answered.", "endpoint", "method", "code")
        self.request_seconds = histogram(
            "lumiply_http_request_seconds", "Seconds from a request's arrival at the application to its answer.",
            _STAGE_BUCKETS, "endpoint",
        )  # fmt: skip
        self.renders = counter("lumiply_renders", "Renders ended, by how.", "outcome")
        self.retries = counter("lumiply_render_retries", "Renders tried once more.")
        self.restarts = counter(
            "lumiply_engine_restarts", "Engines replaced because they were dead or stuck."
        )
        self.refused = counter("lumiply_renders_refused", "Renders refused because the queue was full.")
        self.batch = histogram(
            "lumiply_batch_size", "Colours given to the engine at once.", (1, 2, 3, 4, 5, 6, 7)
        )
        self.stage_seconds = histogram(
            "lumiply_stage_seconds", "Seconds per stage of a render.", _STAGE_BUCKETS, "stage"
        )
        self.cache = counter(
            "lumiply_cache", "Requests answered without a render of their own: from the job's own results, from"
            " another job's, or by joining a render under way; and misses.", "kind",
        )  # fmt: skip
        self.callbacks = counter("lumiply_callbacks", "Callbacks, by how they ended.", "outcome")
        self.swept = counter("lumiply_jobs_swept", "Jobs removed by the limits on age and size.")

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Add a figure that is read when asked for."""
        self._gauges.readers[name] = (help, read)

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(name, help, labels, registry=self._registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self._registry)


def _gpu_memory() -> Iterator[GaugeMetricFamily]:
    """Bytes on each GPU, if this process has loaded torch and uses one; never loads it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return
    family = GaugeMetricFamily("lumiply_gpu_memory_bytes", "GPU memory.", labels=("device", "kind"))
    for device in range(torch.cuda.device_count()):
        family.add_metric([str(device), "allocated"], torch.cuda.memory_allocated(device))
        family.add_metric([str(device), "reserved"], torch.cuda.memory_reserved(device))
        family.add_metric([str(device), "peak"], torch.cuda.max_memory_allocated(device))
    yield family
