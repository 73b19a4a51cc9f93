"""Capturing a CUDA graph, rehearsed on streams that are only names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lumiply.engine.devices import on, settle_on
from lumiply.engine.side_by_side import SideBySide
from lumiply.engine.stepper import CudaCapture

SECOND = torch.device("cuda", 1)


class Stream:
    """Keeps whom it waited for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited: list[str] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other.name)


class Graph:
    """Is held by what replays it."""

    def replay(self) -> None:
        pass


class Cuda:
    """What `torch.cuda` is asked for; a capture that has failed cannot be ended without an error."""

    def __init__(self) -> None:
        self.device, self.stream, self.made = 0, Stream("usual"), 0
        self.pools: list[Any] = []  # of each capture

    def new_stream(self, *given: Any) -> Stream:
        self.made += 1
        return Stream(f"aside {self.made} of {self.device}")

    def set_stream(self, stream: Stream) -> None:
        self.stream = stream

    @contextmanager
    def within(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before  # not after an error, as in the real one

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device.index
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, capture_error_mode: str) -> Iterator[None]:
        self.stream = Stream("capture")
        self.pools.append(pool)
        try:
            yield
        except Exception:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        self.stream = Stream("usual")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    stand_ins: dict[str, Any] = {
        "Stream": cuda.new_stream,
        "current_stream": lambda device=None: cuda.stream,
        "set_stream": cuda.set_stream,
        "stream": cuda.within,
        "device": cuda.on,
        "graph": cuda.graph,
        "CUDAGraph": Graph,
        "graph_pool_handle": object,
        "set_device": lambda device: setattr(cuda, "device", device.index),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return cuda


def failing_at(call: int, error: Exception) -> Callable[[], Tensor]:
    calls = []

    def run() -> Tensor:
        calls.append(1)
        if len(calls) == call:
            raise error
        return torch.zeros(1)

    return run


def test_out_of_memory_within_a_capture_comes_out_as_that_and_the_thread_is_where_it_was(cuda: Cuda) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        CudaCapture(SECOND)(failing_at(3, torch.OutOfMemoryError("CUDA out of memory")))
    assert (cuda.stream.name, cuda.device) == ("usual", 0)


def test_after_a_capture_that_failed_the_next_takes_memory_of_its_own(cuda: Cuda) -> None:
    """torch lets go of a pool that no graph holds, and refuses it from then on."""
    capture = CudaCapture(SECOND)
    with pytest.raises(RuntimeError):
        capture(failing_at(3, RuntimeError("no kernel image is available")))
    held = capture(lambda: torch.zeros(1))
    failed, second = cuda.pools
    assert failed is not second and held().shape == (1,)


def test_captures_share_memory_as_long_as_one_of_them_is_held(cuda: Cuda) -> None:
    capture = CudaCapture(SECOND)
    held = [capture(lambda: torch.zeros(1)), capture(lambda: torch.zeros(1))]
    del held[0]
    held.append(capture(lambda: torch.zeros(1)))
    first, second, third = cuda.pools
    assert first is second is third
    held.clear()  # as when memory is given back
    capture(lambda: torch.zeros(1))
    assert cuda.pools[3] is not first


def test_a_capture_is_of_the_device_that_was_asked_for(cuda: Cuda) -> None:
    seen: list[tuple[int, str]] = []

    def run() -> Tensor:
        seen.append((cuda.device, cuda.stream.name))
        return torch.zeros(1)

    capture = CudaCapture(SECOND)
    capture(run)
    assert seen == [(1, "aside 1 of 1"), (1, "aside 1 of 1"), (1, "capture")]
    assert cuda.device == 0


def test_branches_join_after_an_error_too(cuda: Cuda) -> None:
    aside = Stream("aside")

    def fail(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = SideBySide(lambda *given: [], fail, lambda *given: torch.zeros(1), stream=aside)  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        step(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1))
    assert cuda.stream.waited == ["aside"]


def test_a_thread_means_the_device_that_it_settled_on_and_a_processor_needs_no_cuda(cuda: Cuda) -> None:
    with on(SECOND):
        assert cuda.device == 1
    assert cuda.device == 0
    settle_on(SECOND)
    assert cuda.device == 1
    settle_on(torch.device("cpu"))
    settle_on(torch.device("cuda"))
    with on(torch.device("cpu")):
        assert cuda.device == 1
