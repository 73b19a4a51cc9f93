"""Compilation that nobody waits for: a thread compiles, and what is ready takes over between two steps."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Compile = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


@dataclass(frozen=True)
class Task:
    """One function to compile for inputs of one size.

    Attributes:
        name: in words, for the log.
        build: makes what is compiled, of a function that compiles.
        example: gives inputs like those to come, made when they are needed.
        install: takes the compiled function, which has then run once.
    """

    name: str
    build: Callable[[Compile], Callable[..., Tensor]]
    example: Callable[[], tuple[Tensor, ...]]
    install: Callable[[Callable[..., Tensor]], None]


def default_compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile for one size. Nothing can break the graph, so that a capture holds the whole of it."""
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    return torch.compile(function, **options)


class BackgroundCompiler:
    """Works through its tasks on a thread of its own; a failure is logged, and ends it."""

    def __init__(
        self, tasks: Sequence[Task], *, cache_dir: Path | None = None, compile: Compile = default_compile
    ) -> None:
        """Start.

        Args:
            cache_dir: folder in which compiled code is kept for the next start, made if need be.
        """
        if cache_dir is not None:
            keep_compiled_code(cache_dir)
        self._tasks = tuple(tasks)
        self._compile = compile
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lumiply-compile", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all tasks are over within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Begin no further task. One that is under way ends by itself, or with the process."""
        self._stop.set()

    @torch.inference_mode()
    def _work(self) -> None:
        for task in self._tasks:
            if self._stop.is_set():
                return
            began = time.perf_counter()
            try:
                compiled = task.build(self._compile)
                compiled(*task.example())
            except Exception as error:
                log.warning(
                    "%s could not be compiled, and goes on uncompiled: %s: %s",
                    task.name,
                    type(error).__name__,
                    error,
                )
                log.debug("why", exc_info=error)
                return
            task.install(compiled)
            log.info("%s is compiled (%.0f s)", task.name, time.perf_counter() - began)


def keep_compiled_code(cache_dir: Path) -> None:
    """Have torch keep compiled code in `cache_dir`, unless the process's environment names a folder already."""
    folder = cache_dir.expanduser() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning(
            "%s: compiled code cannot be kept (%s); every start compiles anew", folder, error.strerror
        )
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
