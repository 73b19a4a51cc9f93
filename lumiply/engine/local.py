"""The engine of one process: a single worker owns the model, behind a bounded queue (DESIGN.md, rule 5).

The worker takes one denoising step after another for all renders that are under way (`lumiply.engine.batching`);
between two steps it lets in what waits, as far as there is room, and decodes what is done.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch
from PIL import Image

from lumiply.colors import in_palette_order
from lumiply.engine.admission import Admission
from lumiply.engine.batching import Group, StepBatch
from lumiply.engine.beside import Beside
from lumiply.engine.compiling import BackgroundCompiler
from lumiply.engine.devices import settle_on
from lumiply.engine.memory import BatchLimit
from lumiply.engine.pace import Pace
from lumiply.engine.pauses import Pauses
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.presets import Sampling, choose_sampling
from lumiply.engine.protocol import DEFAULT_SEED, EngineInfo, ProgressCallback, require_seed
from lumiply.engine.reasons import let_go, reason_of, wrapped
from lumiply.engine.render import Pictures, Render
from lumiply.engine.transfer import sent
from lumiply.errors import (
    BusyError,
    EngineClosedError,
    LumiplyError,
    UserError,
)
from lumiply.weights import Adaptor

log = logging.getLogger(__name__)


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

    def fail(self, error: Exception) -> None:
        self.future.set_exception(error)


class LocalEngine:
    """Renders on its own thread, several requests at a time. Implements `Engine`."""

    def __init__(
        self,
        pipeline: Pipeline,
        info: EngineInfo,
        *,
        queue_size: int = 16,
        max_batch: int = 7,
        sampler: str = "ddim",
        compiler: BackgroundCompiler | None = None,
        read_light: Callable[[], Light] | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """Start the worker.

        Args:
            queue_size: renders that may wait besides those that run.
            max_batch: pictures, one a colour, that are denoised at once (`lumiply.engine.admission`).
            sampler: of a render that names no preset; `info.steps` is its number of steps.
            compiler: what compiles the pipeline in the background; told to stop when the engine closes.
            read_light: reads the adaptors that `reload_adaptors` then uses.
            pauses: told of all renders; `compiler` gives way to them by the same.
        """
        self._read_light = read_light
        self._pipeline, self._device = pipeline, pipeline.device
        self._info = info
        self._compiler, self.pauses = compiler, pauses or Pauses()
        self._default = Sampling(sampler, info.steps)
        self._queue: queue.Queue[Render | _Swap | None] = queue.Queue(queue_size)
        self._lock = threading.Lock()
        self._open_jobs: set[Future[Pictures]] = set()
        self._closing = threading.Event()
        self._failed: LumiplyError | None = None
        limit = BatchLimit(max_batch, "denoising")
        self._batch: StepBatch[Render] = StepBatch(
            lambda x, t, conditions: self._pipeline.stepper(x, t, conditions), limit
        )
        self._admission = Admission(limit)
        self._pace = Pace(self._device)
        self._entering: Render | None = None  # it, or some of its pictures, had no room yet
        self._beside = Beside(pipeline, self._closing)
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
    def closed(self) -> bool:
        """Whether it was told to end."""
        return self._closing.is_set()

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
        preset: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Future[Pictures]:
        """See `Engine.submit`. Colours are rendered, and returned, in the palette's order."""
        wanted = in_palette_order(colors)
        if not wanted:
            raise UserError("no colour was asked for; name at least one of the seven")
        self._pipeline.palette.select(wanted)
        photo.load()  # one that is only opened is read as it is used, which two threads cannot do at once
        sampling = choose_sampling(preset, steps, self._default, self._pipeline.schedule.timesteps)
        require_seed(seed)
        render = Render(photo, wanted, seed, sampling, progress)
        self._put(render)
        return render.future

    def _put(self, item: Render | _Swap) -> None:
        """Queue it, or refuse at once."""
        with self._lock:
            if self._closing.is_set():
                raise EngineClosedError("the engine is shutting down; try again when it has been restarted")
            if self._failed is not None:
                raise EngineClosedError("the engine has failed; try again when it has been restarted")
            if self._queue.full():
                self._drop_cancelled()
            if self._queue.full():
                raise BusyError(
                    f"{self._queue.maxsize} renders are already waiting, the most this engine keeps; try again soon"
                )
            if isinstance(item, Render):
                self._beside.begin(item)
                self._open_jobs.add(item.future)
                self.pauses.enter()
            self._queue.put_nowait(item)  # there is room: only this puts, under the lock
        if isinstance(item, Render):
            item.future.add_done_callback(self._forget)

    def _drop_cancelled(self) -> None:
        """Renders that nobody wants any more take no places, nor memory, while the worker is busy."""
        with self._queue.mutex:
            waiting = self._queue.queue
            kept = [item for item in waiting if not (isinstance(item, Render) and item.future.done())]
            waiting.clear()
            waiting.extend(kept)

    def reload_adaptors(self) -> EngineInfo:
        """Read the adaptors' files again and use them from the next render on; wait until that is so.

        Renders that were asked for before keep the old light. Nothing changes if it fails.

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
            if self._compiler is not None:
                self._compiler.close()
            self._drain(EngineClosedError("the engine was shut down before this render began"))
            self._queue.put_nowait(None)  # wakes the worker, so that it can end
        self._worker.join(timeout)
        if self._worker.is_alive():
            log.warning("the render that was running did not end within %s s", timeout)
        else:
            self._beside.close()

    def _drain(self, reason: LumiplyError) -> None:
        """Fail what waits."""
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return
            if waiting is not None:
                waiting.fail(reason)

    def _forget(self, future: Future[Pictures]) -> None:
        with self._lock:
            self._open_jobs.discard(future)
        self.pauses.leave()

    def _work(self) -> None:
        try:
            settle_on(self._device)
            while self._let_in():
                self._step()
        except Exception as error:  # not of one render: the device's own faults come up anywhere
            log.critical("the engine has failed and renders nothing any more", exc_info=error)
            self._fail_all(wrapped("the engine has failed; the server's log says why", error))
            let_go(error)

    def _fail_all(self, reason: LumiplyError) -> None:
        """Nobody waits for a worker that has ended; whoever asks from now on is refused."""
        with self._lock:
            self._failed, unanswered = reason, list(self._open_jobs)
        self._drop_all(reason)
        self._drain(reason)
        for future in unanswered:  # some are in no batch: denoised, and not decoded yet
            with contextlib.suppress(Exception):
                future.set_exception(reason)

    def _let_in(self) -> bool:
        """Start what waits while there is room; wait for something if nothing runs. False: the engine closes."""
        while self._batch.free or self._entering is None and not self._batch.groups:
            render, self._entering = self._entering, None
            if render is None:
                try:
                    item = self._queue.get(block=not self._batch.groups)
                except queue.Empty:
                    return True
                if item is None:
                    self._drop_all(EngineClosedError("the engine was shut down while this render ran"))
                    return False
                if isinstance(item, _Swap):
                    self._swap(item)
                    continue
                render = item
            joining = self._joining(render)
            with self._guarded([render]):
                if joining:
                    self._enter(render, joining)
                if render.remaining:
                    self._entering = render
            if not joining and render.remaining:
                return True
        return True

    def _joining(self, render: Render) -> int:
        """How many pictures of the render that is next may join now."""
        with self._queue.mutex:
            behind = sum(item.remaining for item in self._queue.queue if isinstance(item, Render))
        return self._admission.joining(
            render.remaining,
            entered=render.entered,
            running=self._batch.rows,
            waiting=render.remaining + behind,
            steps=render.sampling.steps,
            left=max((group.owner.sampling.steps - group.done for group in self._batch.groups), default=0),
        )

    def _swap(self, swap: _Swap) -> None:
        try:
            self._pipeline.use_adaptors(swap.light.adaptors)
        except LumiplyError as error:
            swap.fail(error)
            return
        except Exception as error:
            log.exception("the adaptors were not reloaded")
            swap.fail(wrapped("the adaptors were not reloaded; the log says why", error))
            return
        self._info = replace(swap.light.info, colors=self._pipeline.palette.names)
        swap.future.set_result(self._info)

    def _enter(self, render: Render, joining: int) -> None:
        """Let the next pictures of a render join, so many of them."""
        if render.future.done():  # failed or cancelled while it waited for room
            return
        render.check(self._closing)
        with torch.inference_mode():
            if render.conditions is None:
                render.report("prepare", 0, 1)
                photo = render.photo if render.hint is None else render.hint.result()
                render.conditions = self._pipeline.conditions(photo, render.colors)
                render.report("prepare", 1, 1)
            start = render.entered
            stop = start + joining
            noise = sent(self._pipeline.noise(render.seed), self._pipeline.device)
            stepwise = render.sampling.begin(noise.expand(stop - start, -1, -1, -1), self._pipeline.schedule)
            self._batch.join(Group(render, render.conditions.rows(start, stop), stepwise))
            render.entered = stop

    def _step(self) -> None:
        """One denoising step for all that is under way; decode what is then done."""
        running = list(dict.fromkeys(group.owner for group in self._batch.groups))
        for render in running:
            with self._guarded([render]):
                render.check(self._closing)
        if not self._batch.groups:
            return
        ended = self._advance(running)
        self._pace()
        for group in ended:
            with self._guarded([group.owner]):
                if group.error is not None:
                    raise group.error
                group.owner.take(group)
        for render in running:
            if not render.future.done():
                with self._guarded([render]):
                    render.report_steps(group for group in self._batch.groups if group.owner is render)
                    if render.is_denoised:
                        self._beside.decode(render)

    def _advance(self, running: Sequence[Render]) -> list[Group[Render]]:
        """One denoising step, together; if that fails, each render by itself, so that a fault ends its own alone."""
        if len(running) > 1:
            try:
                return self._batch.step()
            except Exception:
                log.warning(
                    "a step of %d renders failed; each now takes it alone", len(running), exc_info=True
                )
        ended: list[Group[Render]] = []
        for render in running:
            with self._guarded([render]):
                ended += self._batch.step(render)
        return ended

    @contextlib.contextmanager
    def _guarded(self, renders: Sequence[Render]) -> Iterator[None]:
        """Whatever happens within ends up in the futures of `renders`, and the worker goes on."""
        try:
            yield
            return
        except Exception as error:
            reason = reason_of(error)
        for render in renders:
            self._batch.leave(render)
            render.fail(reason)
        if isinstance(reason.__cause__, torch.OutOfMemoryError):
            torch.cuda.empty_cache()

    def _drop_all(self, reason: LumiplyError) -> None:
        for render in {group.owner for group in self._batch.groups}:
            self._batch.leave(render)
            render.fail(reason)
