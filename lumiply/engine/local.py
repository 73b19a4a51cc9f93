"""The engine of one process: a single worker owns the model, behind a bounded queue (DESIGN.md, rule 5)."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from PIL import Image

from lumiply.colors import in_palette_order
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import DEFAULT_SEED, EngineInfo, Progress, ProgressCallback, Stage
from lumiply.errors import (
    BusyError,
    CancelledError,
    EngineClosedError,
    LumiplyError,
    RenderError,
    UserError,
)
from lumiply.weights import Adaptor

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


@dataclass(frozen=True)
class Light:
    """Adaptors, and what an engine that has them says of itself; its colours are worked out from them."""

    adaptors: Mapping[str, Adaptor]
    info: EngineInfo


@dataclass(frozen=True)
class _Swap:
    """Waits among the renders, so that the worker alone touches the model."""

    light: Light
    future: Future[EngineInfo]


class LocalEngine:
    """Renders one request after another on its own thread. Implements `Engine`."""

    def __init__(
        self,
        pipeline: Pipeline,
        info: EngineInfo,
        *,
        queue_size: int = 16,
        read_light: Callable[[], Light] | None = None,
    ) -> None:
        """Start the worker.

        Args:
            queue_size: renders that may wait besides the one that runs.
            read_light: reads the adaptors that `reload_adaptors` then uses.
        """
        self._read_light = read_light
        self._pipeline = pipeline
        self._info = info
        self._queue: queue.Queue[_Job | _Swap | None] = queue.Queue(queue_size)
        self._lock = threading.Lock()
        self._open_jobs: set[Future[dict[str, Image.Image]]] = set()
        self._closing = threading.Event()
        self._worker = threading.Thread(target=self._work, name="lumiply-engine", daemon=True)
        self._worker.start()

    @property
    def info(self) -> EngineInfo:
        return self._info

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
        self._put(job)
        return future

    def _put(self, job: _Job | _Swap) -> None:
        """Queue it, or refuse at once."""
        with self._lock:
            if self._closing.is_set():
                raise EngineClosedError("the engine is shutting down; try again when it has been restarted")
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise BusyError(
                    f"{self._queue.maxsize} renders are already waiting, the most this engine keeps; try again soon"
                ) from None
            if isinstance(job, _Job):
                self._open_jobs.add(job.future)
        if isinstance(job, _Job):
            job.future.add_done_callback(self._forget)

    def reload_adaptors(self) -> EngineInfo:
        """Read the adaptors' files again and use them from the next render on; wait until that is so.

        Renders that were asked for before are done first, in the old light. Nothing changes if it fails.

        Returns:
            What the engine says of itself now.

        Raises:
            UserError: this engine was not made from files.
            WeightsError: an adaptor is damaged or not this model's.
            BusyError: the queue is full.
            EngineClosedError: after `close()`.
        """
        if self._read_light is None:
            raise UserError("this engine was not made from files; start it with initialize_engine()")
        swap = _Swap(self._read_light(), Future())
        self._put(swap)
        return swap.future.result()

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
            if isinstance(job, _Swap):
                self._swap(job)
            else:
                self._render(job)
            del job  # or the last photo would stay in memory until the next one comes

    def _swap(self, swap: _Swap) -> None:
        try:
            self._pipeline.use_adaptors(swap.light.adaptors)
        except Exception as error:
            log.exception("the adaptors were not reloaded")
            _fail(swap.future, _wrapped("the adaptors were not reloaded; the log says why", error))
            return
        self._info = replace(swap.light.info, colors=self._pipeline.palette.names)
        swap.future.set_result(self._info)

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
            _fail(job.future, _wrapped("the device ran out of memory; ask for fewer colours at once", error))
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


def _fail(future: Future[Any], error: Exception) -> None:
    with contextlib.suppress(Exception):  # cancelled, so nobody waits for the answer
        future.set_exception(error)
