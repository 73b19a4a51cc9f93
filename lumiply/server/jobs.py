"""From an upload to stored results: one render for all who ask for the same, whichever job they name.

A job's folder belongs to the request that came last. Whoever asks for the same photo and settings shares what is
stored or under way; another photo under the same job id takes the folder over, and what ran before no longer writes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final

from PIL import Image

from lumiply.errors import (
    BusyError,
    CancelledError,
    OutdatedError,
    RenderTimeoutError,
    ReplacedError,
    StorageFullError,
)
from lumiply.images import encode_png, read_photo
from lumiply.server.claims import Claims
from lumiply.server.dispatch import RenderQueue, closing_error
from lumiply.server.early import EarlyOrder, EarlyOrders
from lumiply.server.metrics import Metrics
from lumiply.server.order import Order
from lumiply.server.publish import Publisher, storage_errors
from lumiply.server.record import Recipe
from lumiply.server.render import Render, Ticket
from lumiply.server.slot import EngineSlot
from lumiply.server.store import JobStore
from lumiply.settings import Settings
from lumiply.waiting import waiting

#: Photos that are decoded at the same time; each takes 3 bytes a pixel, and more while it is converted.
_DECODERS: Final = 4
#: Bytes a pixel that results take at most, about: of the photo's PNG, and of a JPEG.
_PNG_BYTES, _JPEG_BYTES = 3.0, 1.0


class Jobs:
    """Answers "these results, please" from the disk, from a render under way, or by a new one."""

    def __init__(
        self, store: JobStore, slot: EngineSlot, queue: RenderQueue, settings: Settings, metrics: Metrics
    ) -> None:
        self._store, self._slot, self._queue = store, slot, queue
        self._settings, self._metrics = settings, metrics
        self._early = EarlyOrders()
        self._claims = Claims(self._early, store.colors_of)
        self._publisher = Publisher(store, self._claims, metrics)
        self._decoders = threading.Semaphore(_DECODERS)
        self._seats = threading.Semaphore(settings.waiting_requests)
        self._closing: Future[None] = Future()

    def ensure(self, order: Order, timeout: float) -> None:
        """Return once the ordered pictures stand in the job's folder.

        Args:
            order: what is wanted; its job id is a valid one.
            timeout: seconds to wait. A render that nobody waits for any longer is ended.

        Raises:
            EngineClosedError, BusyError: no render can be had now.
            LoadingError: the model was still loading when the time was over.
            UserError: the upload is no usable photo, or the engine lacks a colour or a preset.
            RenderTimeoutError: not done in time.
            CancelledError: the job was deleted, or another photo took it over.
            StorageFullError, StorageUnavailableError: the results cannot be kept.
            RenderError: the render failed.
        """
        deadline = time.monotonic() + timeout
        with contextlib.ExitStack() as seat:
            if loading := not self._slot.first.done():
                seat.enter_context(self._seat())
                early = seat.enter_context(self._early.added(order))
                self._wait_for_engine(early, deadline)
            recipe, _ = order.plan(self._slot.info(), self._settings)
            if self._answer_from_disk(order, recipe):
                return
            if not loading:
                seat.enter_context(self._seat())
            while not self._rendered(order, timeout, deadline):
                pass

    def activity(self, job_id: str) -> list[Ticket]:
        """What is under way for a job."""
        return self._claims.of(job_id)

    def early(self, job_id: str) -> list[EarlyOrder]:
        """What waits for the first engine for a job, in the order of coming."""
        return self._early.of(job_id)

    def place(self, job_id: str) -> int:
        """How many renders, or jobs that wait for the first engine, come before the last of a job's, plus one."""
        places = [self._queue.place(ticket.render) for ticket in self.activity(job_id)]
        return max(places) if places else self._early.place(job_id)

    def is_active(self, job_id: str) -> bool:
        """Whether something is under way for a job, or waits for the first engine."""
        return self._claims.is_active(job_id)

    def delete(self, job_id: str) -> None:
        """End what has not finished of a job, and remove its files."""
        why = CancelledError("작업이 삭제되어 렌더링을 취소했습니다.")
        self._early.call_off(job_id, why)  # first: one that gets past this has its tickets by the next line
        self._drop(self.activity(job_id), why)
        self._store.remove(job_id)

    def close(self, timeout: float = 0.0) -> None:
        """Give what runs `timeout` seconds, fail the rest, finish writing. Safe to call twice."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._closing.set_result(None)
        self._queue.close(timeout)
        self._publisher.close()

    def _rendered(self, order: Order, timeout: float, deadline: float) -> bool:
        """Bring what the order lacks, by the weights that the engine has now; False if it has others meanwhile."""
        recipe, wanted = order.plan(self._slot.info(), self._settings)
        with contextlib.suppress(OutdatedError):
            while tickets := self._tickets(order, recipe, wanted):
                self._wait(tickets, timeout, deadline)
                if self._store.colors_of(order.job_id, recipe) >= set(order.colors):
                    break
                if not self.activity(order.job_id):
                    raise ReplacedError  # done, and taken over or removed since
            return True
        return False

    # From an order to tickets

    @contextlib.contextmanager
    def _seat(self) -> Iterator[None]:
        """Keep threads free for answers that need no render."""
        if not self._seats.acquire(blocking=False):
            self._metrics.refused.inc()
            raise BusyError("too many requests are waiting")
        try:
            yield
        finally:
            self._seats.release()

    def _answer_from_disk(self, order: Order, recipe: Recipe) -> bool:
        """Whether all is there, and stays: a render of another photo that would replace it is ended."""
        if not self._store.colors_of(order.job_id, recipe) >= set(order.colors):
            return False
        self._drop(self._claims.replace(order.job_id, recipe), ReplacedError())
        with self._store.locked(order.job_id):  # a write under way has ended
            there = self._store.colors_of(order.job_id, recipe) >= set(order.colors)
            if there:
                self._store.settle(order.job_id, recipe)
        if there:
            self._metrics.cache.labels("own").inc()
        return there

    def _tickets(self, order: Order, recipe: Recipe, wanted: tuple[str, ...]) -> list[Ticket]:
        """Claims on what the order lacks; none if it is all there."""
        with storage_errors():
            if self._store.adopt(order.job_id, recipe, wanted) and self._answer_from_disk(order, recipe):
                self._metrics.cache.labels("other").inc()
                return []
        photo: Image.Image | None = None
        claim = self._claims.claim(order, recipe, wanted, None)
        if claim is None:
            with waiting(), self._decoders:
                photo = read_photo(order.upload, self._settings.max_megapixels)
            self._require_space(photo, wanted)
            start = functools.partial(self._start, recipe, order.job_id, photo)
            claim = self._claims.claim(order, recipe, wanted, start)
            assert claim is not None
        self._metrics.cache.labels("miss" if claim.new else "joined").inc()
        self._drop(claim.replaced, ReplacedError())
        photo_file: Future[bytes] = Future()
        if claim.new is not None:
            photo_file = claim.new.photo_file  # now: whoever ends the render lets go of it
            self._publisher.expect(claim.new)
        try:
            with storage_errors():
                for ticket in claim.added:
                    ticket.begun = self._store.begin(
                        order.job_id, recipe, ticket.colors, functools.partial(_is_live, ticket)
                    )
            if claim.new is not None and photo is not None:
                with waiting(), self._decoders:
                    file = encode_png(photo)  # here, while the engine renders
                photo_file.set_result(file)
        except BaseException as exc:
            photo_file.set_exception(exc)
            self._drop(claim.added, exc)
            raise
        return claim.relevant

    def _start(self, recipe: Recipe, job_id: str, photo: Image.Image, colors: tuple[str, ...]) -> Render:
        """Queue a render.

        Raises:
            BusyError, EngineClosedError: it cannot be.
        """
        render = Render(recipe, colors, job_id, photo)
        render.on_stage = lambda stage, seconds: self._metrics.stage_seconds.labels(stage).observe(seconds)
        self._queue.add(render)
        return render

    def _require_space(self, photo: Image.Image, colors: tuple[str, ...]) -> None:
        pixels = photo.width * photo.height
        needed = int(pixels * (_PNG_BYTES + _JPEG_BYTES * len(colors))) + 100_000
        free = self._store.free_bytes()
        if free is not None and free < needed:
            raise StorageFullError(needed, free)

    # Waiting

    def _wait_for_engine(self, early: EarlyOrder, deadline: float) -> None:
        """Wait until the first engine is there, has failed to load, or will not be needed."""
        either: list[Future[Any]] = [self._slot.first, self._closing, early.called_off]
        left = max(0.0, deadline - time.monotonic())
        with waiting():
            concurrent.futures.wait(either, left, concurrent.futures.FIRST_COMPLETED)
        if early.called_off.done():
            early.called_off.result()
        if self._closing.done():
            raise closing_error()

    def _wait(self, tickets: list[Ticket], timeout: float, deadline: float) -> None:
        try:
            with waiting():
                concurrent.futures.wait(
                    [ticket.done for ticket in tickets],
                    max(0.0, deadline - time.monotonic()),
                    concurrent.futures.FIRST_EXCEPTION,
                )
        finally:
            late = self._claims.stop_waiting(tickets)
        error = next((e for t in tickets if t.done.done() and (e := t.done.exception())), None)
        if error is not None:
            raise error
        if any(ticket.is_live for ticket in tickets):
            self._drop(late, RenderTimeoutError(timeout))
            raise RenderTimeoutError(timeout)

    def _drop(self, tickets: Iterable[Ticket], error: BaseException) -> None:
        """Take claims back; a render that nobody claims any longer is ended."""
        tickets = list(tickets)
        self._publisher.finish(tickets, error)
        for render in dict.fromkeys(ticket.render for ticket in tickets):
            if self._claims.close_unwanted(render) and not render.result.done():
                self._queue.cancel(render, error)  # its end is settled, and lets go of the rest


def _is_live(ticket: Ticket) -> bool:
    return ticket.is_live
