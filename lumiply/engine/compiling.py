"""Compilation that nobody waits for: processes of their own compile, and what is ready takes over between two steps.

A compiler that works in the server's own process holds Python's lock for minutes, and functions that it has made
cannot be called while it traces another. So each part is compiled ahead of time elsewhere (`lumiply.engine.ahead`),
and here only loaded, compared with the network as it stands, and put in its place.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from lumiply.engine.pauses import Pauses

log = logging.getLogger(__name__)

#: Takes and gives tensors and lists of them.
Function = Callable[..., Any]

#: Largest relative error of a compiled function: half precision alone makes 0.2 % of a step.
TOLERANCE: Final = 0.02


@dataclass(frozen=True)
class Part:
    """A method of a network, to be compiled for inputs of one size.

    Attributes:
        network: holds the weights that the method uses.
        method: its name.
        inputs: tensors like those to come, or a part whose results are meant.
    """

    network: nn.Module
    method: str
    inputs: tuple[Tensor | Part, ...]

    def resolved(self) -> tuple[Any, ...]:
        """What the method takes: tensors, and lists of them."""
        return tuple(given.run() if isinstance(given, Part) else given for given in self.inputs)

    def run(self) -> Any:
        """The method as it stands, of those inputs."""
        return getattr(self.network, self.method)(*self.resolved())


@dataclass(frozen=True)
class Task:
    """Something that is worth compiling, in one part or several.

    Attributes:
        name: in words, for the log.
        inputs: gives inputs like those to come, with numbers like theirs; made when they are needed.
        parts: each makes one part of those inputs.
        assemble: makes the quick function of the compiled parts.
        plain: the same function as it stands.
        install: takes the quick one, which has then run once and agreed with `plain`.
        tolerance: the largest relative error that is no disagreement.
    """

    name: str
    inputs: Callable[[], tuple[Tensor, ...]]
    parts: tuple[Callable[[tuple[Tensor, ...]], Part], ...]
    assemble: Callable[[Sequence[Function]], Function]
    plain: Function
    install: Callable[[Function], None]
    tolerance: float = TOLERANCE


class Compiler(Protocol):
    """Makes quick functions of parts."""

    def __call__(self, part: Part, name: str) -> Function:
        """Block until `part` is compiled.

        Raises:
            CompilationError: it cannot be.
        """

    def close(self) -> None:
        """End what is under way."""


class CompilationError(RuntimeError):
    """A part cannot be compiled here; it works as it stands."""


class BackgroundCompiler:
    """Works through its tasks, several parts at a time; a failure is logged, and ends it."""

    def __init__(
        self,
        tasks: Sequence[Task],
        compiler: Compiler,
        *,
        slots: int | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """Start.

        Args:
            compiler: what compiles; closed with this.
            slots: parts at a time; by default one for every four processors, and at most four.
            pauses: of the engine; what is compiled is compared in them. None: whenever it is ready.
        """
        self._tasks = tuple(tasks)
        self._compiler = compiler
        self._pauses = pauses or Pauses(quiet=0)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(
            slots or max(1, min(4, (os.cpu_count() or 1) // 4)), "lumiply-compile-part"
        )
        self._thread = threading.Thread(target=self._work, name="lumiply-compile", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all tasks are over within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Begin no further task, and end those that are under way."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._compiler.close()
        self._pauses.wake()

    @torch.inference_mode()
    def _work(self) -> None:
        pending = [(task, time.perf_counter(), self._begin(task)) for task in self._tasks]
        for task, began, futures in pending:
            try:
                install = self._finish(task, futures)
            except Exception as error:
                if not self._stop.is_set():
                    log.warning(
                        "%s could not be compiled, and goes on uncompiled: %s: %s",
                        task.name,
                        type(error).__name__,
                        error,
                    )
                    log.debug("why", exc_info=error)
                self.close()
                return
            install()
            log.info("%s is compiled (%.0f s)", task.name, time.perf_counter() - began)
        self._pool.shutdown(wait=False)

    def _begin(self, task: Task) -> list[Future[Function]]:
        def compile(index: int) -> Function:
            with torch.inference_mode():
                part = task.parts[index](task.inputs())
                name = task.name if len(task.parts) == 1 else f"{task.name}, part {index + 1}"
                return self._compiler(part, name)

        try:
            return [self._pool.submit(compile, index) for index in range(len(task.parts))]
        except RuntimeError:  # closed meanwhile
            return []

    def _finish(self, task: Task, futures: Sequence[Future[Function]]) -> Callable[[], None]:
        functions = [future.result() for future in futures]
        self._pauses.wait(self._stop.is_set)
        if self._stop.is_set():
            raise CompilationError("the engine is closing")
        quick, inputs = task.assemble(functions), task.inputs()
        error = relative_error(quick(*inputs), task.plain(*inputs))
        if not error < task.tolerance:  # nor when it is no number
            raise CompilationError(
                f"compiled, it is {error:.3g} from what it was, more than {task.tolerance}"
            )
        return lambda: task.install(quick)


def relative_error(found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor]) -> float:
    """The largest of |found - expected| / |expected| (norms) over the tensors."""
    pairs = zip(_listed(found), _listed(expected), strict=True)
    return max(float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-12)) for a, b in pairs)


def _listed(results: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [results] if isinstance(results, Tensor) else results
