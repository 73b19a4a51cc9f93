"""The engine of one process: a single worker owns the model, behind a bounded queue (DESIGN.md, rule 5)."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import torch
from PIL import Image

from lumiply.colors import in_palette_order
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import DEFAULT_SEED, EngineInfo, Progress, ProgressCallback, Stage
from lumiply.errors import (
    BusyError,
    CancelledError,
    DeviceMemoryError,
    EngineClosedError,
    LumiplyError,
    RenderError,
    UserError,
)

log = logging.getLogger(__name__)

#: `torch.Generator.manual_seed` takes no larger one.
LARGEST_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class _Job:
    photo: Image.Image
    colors: tuple[str, ...]
    seed: int
    steps: int
    progress: ProgressCallback | None
    future: Future[dict[str, Image.Image]]


class LocalEngine:
    """Renders one request after another on its own thread. Implements `Engine`."""

    def __init__(self, pipeline: Pipeline, info: EngineInfo, *, queue_size: int = 16) -> None:
        """Start the worker.

        Args:
            queue_size: renders that may wait besides the one that runs.
        """
        self._pipeline = pipeline
        self._info = info
        self._queue: queue.Queue[_Job | None] = queue.Queue(queue_size)
        self._lock = threading.Lock()
        self._open_jobs: set[Future[dict[str, Image.Image]]] = set()
        self._closing = threading.Event()
        self._worker = threading.Thread(target=self._work, name="lumiply-engine", daemon=True)
        self._worker.start()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def alive(self) -> bool:
        """Whether the worker goes on, or ended because it was told to."""
        return self._worker.is_alive() or self._closing.is_set()

    @property
    def queue_length(self) -> int:
        with self._lock:
            return len(self._open_jobs)

    def submit(
        self,
        photo: Image.Image,
        colors: Sequence[str],
        *,
        seed: int = DEFAULT_SEED,
        steps: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Future[dict[str, Image.Image]]:
        """See `Engine.submit`. Colours are rendered, and returned, in the palette's order."""
        wanted = in_palette_order(colors)
        if not wanted:
            raise UserError("no colour was asked for; name at least one of the seven")
        self._pipeline.palette.select(wanted)
        count = self._info.steps if steps is None else steps
        longest = self._pipeline.schedule.timesteps
        if not 1 <= count <= longest:
            raise UserError(f"steps must be from 1 to {longest}, got {count}")
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"the seed must be from 0 to {LARGEST_SEED}, got {seed}")
        future: Future[dict[str, Image.Image]] = Future()
        job = _Job(photo, wanted, seed, count, progress, future)
        with self._lock:
            if self._closing.is_set():
                raise EngineClosedError("the engine is shutting down; try again when it has been restarted")
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise BusyError(
                    f"{self._queue.maxsize} renders are already waiting, the most this engine keeps; try again soon"
                ) from None
            self._open_jobs.add(future)
        future.add_done_callback(self._forget)
        return future

    def close(self, timeout: float | None = None) -> None:
        """See `Engine.close`. Renders that have not ended by then are cancelled."""
        with self._lock:
            already = self._closing.is_set()
            self._closing.set()
        if not already:
            self._drain()
        self._worker.join(timeout)
        if self._worker.is_alive():
            log.warning("the render that was running did not end within %s s", timeout)

    def _drain(self) -> None:
        """Cancel what waits, then wake the worker so that it can end."""
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                _fail(job.future, EngineClosedError("the engine was shut down before this render began"))
        self._queue.put_nowait(None)

    def _forget(self, future: Future[dict[str, Image.Image]]) -> None:
        with self._lock:
            self._open_jobs.discard(future)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._render(job)
            del job  # or the last photo would stay in memory until the next one comes

    def _render(self, job: _Job) -> None:
        """Run one job; whatever happens ends up in its future, and the worker goes on."""
        cancelled = threading.Event()
        job.future.add_done_callback(lambda future: cancelled.set() if future.cancelled() else None)

        def report(stage: Stage, step: int, steps: int) -> None:
            if cancelled.is_set():
                raise CancelledError("the render was cancelled")
            if self._closing.is_set():
                raise EngineClosedError("the engine was shut down while this render ran")
            if job.progress is not None:
                job.progress(Progress(stage, step, steps))

        if job.future.cancelled():
            return
        try:
            pictures = self._pipeline.relight(
                job.photo, job.colors, seed=job.seed, steps=job.steps, on_stage=report
            )
            report("done", 1, 1)
        except LumiplyError as error:
            _fail(job.future, error)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            log.exception("out of memory")
            refused = DeviceMemoryError("the device ran out of memory; ask for fewer colours at once")
            refused.__cause__ = error
            _fail(job.future, refused)
        except Exception as error:
            log.exception("a render failed")
            _fail(
                job.future, _wrapped("the render failed inside the model; the server's log says why", error)
            )
        else:
            with contextlib.suppress(Exception):  # cancelled at the last moment
                job.future.set_result(pictures)


def _wrapped(sentence: str, cause: Exception) -> RenderError:
    error = RenderError(sentence)
    error.__cause__ = cause
    return error


def _fail(future: Future[dict[str, Image.Image]], error: Exception) -> None:
    with contextlib.suppress(Exception):  # cancelled, so nobody waits for the answer
        future.set_exception(error)
