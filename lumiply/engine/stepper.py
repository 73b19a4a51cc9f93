"""One denoising step of a batch: as the network stands, compiled, or replayed from a CUDA graph.

A user never waits for any of it: the network runs as it is until something quicker is ready for that batch size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakSet

import torch
from torch import Tensor

from cldm import StepConditions
from lumiply.engine.devices import on

log = logging.getLogger(__name__)

#: (x (b, c, h, w) float32, t (b,) int64, hint features, keys and values) -> v (b, c, h, w) float32.
StepFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
#: Makes, of a function that always reads the same tensors, one that does the same quicker.
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]

#: Batch sizes that are compiled and captured: one colour, seven, two photos of seven, and some between.
BATCH_SIZES: Final = (1, 2, 4, 7, 8, 14)


class Stepper:
    """Evaluates a step network for batches of any size, and in pieces where memory is short.

    Without `capture`, every batch is run at its own size. With it, batches are filled up to the next of `sizes`,
    and each size is captured when it is first met.

    All calls come from one thread, the device's owner; `use` may be called from any.
    """

    def __init__(
        self, network: StepFunction, *, sizes: Sequence[int] = BATCH_SIZES, capture: Capture | None = None
    ) -> None:
        self.sizes = tuple(sorted(sizes))
        self._network = network
        self._capture = capture
        self._compiled: dict[int, StepFunction] = {}
        self._replays: dict[int, tuple[StepFunction, Callable[[], Tensor]]] = {}
        self._uncapturable: set[tuple[int, StepFunction]] = set()
        self._static: tuple[Tensor, Tensor, StepConditions] | None = None
        self._last: StepConditions | None = None

    def use(self, size: int, function: StepFunction) -> None:
        """From the next step on, evaluate batches of `size` by `function`."""
        self._compiled[size] = function

    def capture_with(self, capture: Capture) -> None:
        """From the next step on, run batches from captured graphs."""
        self._capture = capture

    def padded(self, batch: int) -> int:
        """The size at which a batch is run."""
        return next((size for size in self.sizes if size >= batch), batch) if self._capture else batch

    def __call__(self, x: Tensor, t: Tensor, conditions: StepConditions) -> Tensor:
        """v of x (b, c, h, w) float32 at timesteps t (b,): (b, c, h, w) float32.

        Raises:
            torch.OutOfMemoryError: the batch does not fit.
        """
        batch = x.shape[0]
        size = self.padded(batch)
        refused = (size, self._compiled.get(size, self._network)) in self._uncapturable
        if self._capture is not None and size <= self.sizes[-1] and not refused:
            try:
                return self._replay(size, x, t, conditions)[:batch].clone()
            except torch.OutOfMemoryError:
                self._forget()
                raise
            except Exception:
                log.exception("steps of %d pictures are not captured; they are launched one by one", size)
                self._uncapturable.add((size, self._compiled.get(size, self._network)))
                self._forget()
        inputs = (x, t, conditions.hint_features, conditions.keys_values)
        compiled = self._compiled.get(batch)
        if compiled is not None:
            try:
                return compiled(*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                log.exception("the compiled step of %d pictures failed and is not used any more", batch)
                del self._compiled[batch]
        return self._network(*inputs)

    def _replay(self, size: int, x: Tensor, t: Tensor, conditions: StepConditions) -> Tensor:
        function = self._compiled.get(size, self._network)
        x_in, t_in, held = self._inputs(x, conditions)
        batch = x.shape[0]
        x_in[:batch].copy_(x)
        t_in[:batch].copy_(t)
        if self._last is not conditions:
            held.hint_features[:batch].copy_(conditions.hint_features)
            held.keys_values[:batch].copy_(conditions.keys_values)
            self._last = conditions
        captured = self._replays.get(size)
        if captured is None or captured[0] is not function:
            rows = held.rows(0, size)

            def run() -> Tensor:
                return function(x_in[:size], t_in[:size], rows.hint_features, rows.keys_values)

            assert self._capture is not None
            captured = self._replays[size] = (function, self._capture(run))
        return captured[1]()

    def _inputs(self, x: Tensor, conditions: StepConditions) -> tuple[Tensor, Tensor, StepConditions]:
        """Tensors for the largest size, of which smaller ones use the first rows."""
        if self._static is None:
            most = self.sizes[-1]

            def room(like: Tensor) -> Tensor:
                shape = (most, *like.shape[1:])
                channels_last = like.dim() == 4
                layout = torch.channels_last if channels_last else torch.contiguous_format
                return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout).zero_()

            held = StepConditions(room(conditions.hint_features), room(conditions.keys_values))
            self._static = room(x), torch.zeros(most, dtype=torch.long, device=x.device), held
        return self._static

    def _forget(self) -> None:
        """Give captured memory back."""
        self._replays.clear()
        self._static = self._last = None


class CudaCapture:
    """Captures CUDA graphs that share one memory pool: they never run at the same time."""

    def __init__(self, device: torch.device | None = None) -> None:
        """On `device`, or the one that the calling thread means."""
        self._device = device or torch.device("cuda", torch.cuda.current_device())
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()  # those that hold the pool

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with on(self._device):
            return self._captured(run)

    def _captured(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries choose their algorithms before the capture
                run()
        here.wait_stream(aside)
        graph, failed = torch.cuda.CUDAGraph(), None
        if not self._graphs:  # torch refuses a pool that no graph holds any more
            self._pool = torch.cuda.graph_pool_handle()
        try:
            # "thread_local": a compilation in another thread may use the device meanwhile
            # on torch's own stream for captures, one for all: memory is shared within a stream alone
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                try:
                    out = run()
                except Exception as error:
                    failed = error
                    raise
        except Exception:
            if failed is not None:  # ending a capture that has failed raises an error of its own
                raise failed from None
            raise
        finally:
            torch.cuda.set_stream(here)  # where it would not go back to after such an error

        self._graphs.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
