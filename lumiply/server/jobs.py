"""From an upload to stored results: one render for all who ask for the same, whichever job they name.

A job's folder belongs to the request that came last. Whoever asks for the same photo and settings shares what is
stored or under way; another photo under the same job id takes the folder over, and what ran before no longer writes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import functools
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from lumiply.errors import (
    BusyError,
    CancelledError,
    LumiplyError,
    RenderTimeoutError,
    ReplacedError,
    StorageFullError,
)
from lumiply.images import encode_jpeg, encode_png, read_photo
from lumiply.server.dispatch import RenderQueue, closing_error
from lumiply.server.early import EarlyOrder, EarlyOrders
from lumiply.server.metrics import Metrics
from lumiply.server.names import PHOTO_NAME, output_name
from lumiply.server.order import Order
from lumiply.server.record import Failure, Recipe
from lumiply.server.render import Pictures, Render, Ticket
from lumiply.server.sentences import sentence_of
from lumiply.server.slot import EngineSlot
from lumiply.server.store import JobStore
from lumiply.settings import Settings
from lumiply.waiting import waiting

log = logging.getLogger(__name__)

#: Photos that are decoded at the same time; each takes 3 bytes a pixel, and more while it is converted.
_DECODERS: Final = 4
#: Bytes a pixel that results take at most, about: of the photo's PNG, and of a JPEG.
_PNG_BYTES, _JPEG_BYTES = 3.0, 1.0


@dataclass
class _Active:
    """A job with something under way."""

    recipe: Recipe
    tickets: list[Ticket] = field(default_factory=list)


@dataclass
class _Claim:
    """What an order takes part in.

    Attributes:
        new: the render that it had to start.
        added: its new tickets; relevant: those, new or not, that it waits for.
        replaced: tickets of the same job for another photo, which lost.
    """

    new: Render | None
    replaced: list[Ticket]
    added: list[Ticket] = field(default_factory=list)
    relevant: list[Ticket] = field(default_factory=list)


class Jobs:
    """Answers "these results, please" from the disk, from a render under way, or by a new one."""

    def __init__(
        self, store: JobStore, slot: EngineSlot, queue: RenderQueue, settings: Settings, metrics: Metrics
    ) -> None:
        self._store, self._slot, self._queue = store, slot, queue
        self._settings, self._metrics = settings, metrics
        self._lock = threading.Lock()
        self._active: dict[str, _Active] = {}
        self._early = EarlyOrders()
        self._ended = 0  # tickets so far
        self._under_way: dict[tuple[Recipe, str], Render] = {}  # by recipe and colour
        self._decoders = threading.Semaphore(_DECODERS)
        self._seats = threading.Semaphore(settings.waiting_requests)
        self._closing: Future[None] = Future()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lumiply-store")

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
            recipe, wanted = order.plan(self._slot.info(), self._settings)
            if self._answer_from_disk(order, recipe):
                return
            if not loading:
                seat.enter_context(self._seat())
            while tickets := self._tickets(order, recipe, wanted):
                self._wait(tickets, timeout, deadline)
                if self._store.colors_of(order.job_id, recipe) >= set(order.colors):
                    return
                if not self.activity(order.job_id):
                    raise ReplacedError  # done, and taken over or removed since

    def activity(self, job_id: str) -> list[Ticket]:
        """What is under way for a job."""
        with self._lock:
            active = self._active.get(job_id)
            return list(active.tickets) if active else []

    def early(self, job_id: str) -> list[EarlyOrder]:
        """What waits for the first engine for a job, in the order of coming."""
        return self._early.of(job_id)

    def place(self, job_id: str) -> int:
        """How many renders, or jobs that wait for the first engine, come before the last of a job's, plus one."""
        places = [self._queue.place(ticket.render) for ticket in self.activity(job_id)]
        return max(places) if places else self._early.place(job_id)

    def is_active(self, job_id: str) -> bool:
        """Whether something is under way for a job, or waits for the first engine."""
        with self._lock:
            return job_id in self._active or bool(self._early.of(job_id))

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
        self._writer.shutdown(wait=True)

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
        with self._lock:
            active = self._active.get(order.job_id)
            replaced = active.tickets if active and active.recipe != recipe else []
            if replaced:
                del self._active[order.job_id]
        self._drop(replaced, ReplacedError())
        with self._store.locked(order.job_id):  # a write under way has ended
            there = self._store.colors_of(order.job_id, recipe) >= set(order.colors)
        if there:
            self._metrics.cache.labels("own").inc()
        return there

    def _tickets(self, order: Order, recipe: Recipe, wanted: tuple[str, ...]) -> list[Ticket]:
        """Claims on what the order lacks; none if it is all there."""
        with _storage_errors():
            if self._store.adopt(order.job_id, recipe, wanted) and self._answer_from_disk(order, recipe):
                self._metrics.cache.labels("other").inc()
                return []
        photo: Image.Image | None = None
        claim = self._claim(order, recipe, wanted, None)
        if claim is None:
            with waiting(), self._decoders:
                photo = read_photo(order.upload, self._settings.max_megapixels)
            self._require_space(photo, wanted)
            claim = self._claim(order, recipe, wanted, photo)
            assert claim is not None
        self._metrics.cache.labels("miss" if claim.new else "joined").inc()
        self._drop(claim.replaced, ReplacedError())
        photo_file: Future[bytes] = Future()
        if claim.new is not None:
            photo_file = claim.new.photo_file  # now: whoever ends the render lets go of it
            claim.new.result.add_done_callback(functools.partial(self._hand_over, claim.new))
        try:
            with _storage_errors():
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

    def _claim(
        self, order: Order, recipe: Recipe, wanted: tuple[str, ...], photo: Image.Image | None
    ) -> _Claim | None:
        """Take part in what is under way and queue the rest; None, with nothing changed, if that takes a photo.

        Raises:
            BusyError, EngineClosedError: it cannot be queued.
            CancelledError: the order came early and has been called off.
        """
        with self._stored(order.job_id, recipe) as stored:
            active = self._active.get(order.job_id)
            mine = active.tickets if active and active.recipe == recipe else []
            there = stored.union(*(ticket.colors for ticket in mine))
            missing = [color for color in wanted if color not in there]
            sources = {color: self._under_way.get((recipe, color)) for color in missing}
            rest = tuple(color for color, render in sources.items() if render is None)
            if rest and photo is None:
                return None
            self._early.take(order)
            new = self._new_render(recipe, rest, order.job_id, photo) if rest else None
            claim = _Claim(new, replaced=active.tickets if active and not mine else [])
            if claim.replaced:
                del self._active[order.job_id]
            for render in dict.fromkeys(render or new for render in sources.values()):
                assert render is not None
                colors = frozenset(color for color, source in sources.items() if (source or new) is render)
                ticket = Ticket(order.job_id, render, colors)
                render.tickets.append(ticket)
                self._active.setdefault(order.job_id, _Active(recipe)).tickets.append(ticket)
                claim.added.append(ticket)
            claim.relevant = [t for t in dict.fromkeys([*mine, *claim.added]) if t.colors & set(order.colors)]
            for ticket in claim.relevant:
                ticket.waiting += 1
        return claim

    @contextlib.contextmanager
    def _stored(self, job_id: str, recipe: Recipe) -> Iterator[frozenset[str]]:
        """What stands in the job's folder, true while the lock is held, and not waited for under it."""
        while True:
            ended = self._ended
            stored = self._store.colors_of(job_id, recipe)
            with self._lock:
                if ended == self._ended:
                    yield stored
                    return

    def _new_render(
        self, recipe: Recipe, colors: tuple[str, ...], job_id: str, photo: Image.Image | None
    ) -> Render:
        render = Render(recipe, colors, job_id, photo)
        render.on_stage = lambda stage, seconds: self._metrics.stage_seconds.labels(stage).observe(seconds)
        self._queue.add(render)
        self._under_way |= {(recipe, color): render for color in colors}
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
            with self._lock:
                for ticket in tickets:
                    ticket.waiting -= 1
                late = [ticket for ticket in tickets if ticket.is_live and ticket.waiting == 0]
        error = next((e for t in tickets if t.done.done() and (e := t.done.exception())), None)
        if error is not None:
            raise error
        if any(ticket.is_live for ticket in tickets):
            self._drop(late, RenderTimeoutError(timeout))
            raise RenderTimeoutError(timeout)

    # From a render to files

    def _hand_over(self, render: Render, _: Future[Pictures]) -> None:
        """Called on the engine's thread: leave encoding and writing to the writer's."""
        try:
            self._writer.submit(self._publish, render)
        except RuntimeError:  # the writer is shut down
            self._settle(render, CancelledError("서버가 종료되고 있습니다. 잠시 후 다시 요청해 주세요."))

    def _publish(self, render: Render) -> None:
        began = time.monotonic()
        try:
            files = self._encode(render, render.result.result())
            while ticket := self._next_ticket(render):
                self._publish_for(ticket, files)
            render.release()
        except concurrent.futures.CancelledError:
            self._settle(render, CancelledError("렌더링이 취소되었습니다. 다시 요청해 주세요."))
        except BaseException as exc:
            self._settle(render, exc)
        else:
            self._metrics.stage_seconds.labels("store").observe(time.monotonic() - began)

    def _encode(self, render: Render, pictures: Pictures) -> dict[str, bytes]:
        quality = render.recipe.jpeg_quality
        files = {output_name(color): encode_jpeg(picture, quality) for color, picture in pictures.items()}
        return {PHOTO_NAME: render.photo_file.result(), **files}

    def _next_ticket(self, render: Render) -> Ticket | None:
        """A ticket that has yet to be served; once there is none, the render can no longer be joined."""
        with self._lock:
            ticket = next((ticket for ticket in render.tickets if ticket.is_live), None)
            if ticket is None:
                self._close_render(render)
            return ticket

    def _publish_for(self, ticket: Ticket, files: dict[str, bytes]) -> None:
        names = [PHOTO_NAME, *(output_name(color) for color in ticket.colors)]
        error: BaseException | None = None
        try:
            with _storage_errors():
                self._store.publish(
                    ticket.job_id,
                    ticket.render.recipe,
                    {name: files[name] for name in names},
                    wanted=lambda: ticket.is_live,
                    begun=ticket.begun,
                )
        except BaseException as exc:
            log.error("job %s: results not stored: %s", ticket.job_id, exc)
            error = exc
        self._finish([ticket], error)

    # Ends

    def _settle(self, render: Render, error: BaseException) -> None:
        """A render came to nothing: tell all who wait."""
        with self._lock:
            self._close_render(render)
            tickets = list(render.tickets)
        self._finish(tickets, error)
        render.release()

    def _drop(self, tickets: Iterable[Ticket], error: BaseException) -> None:
        """Take claims back; a render that nobody claims any longer is ended."""
        tickets = list(tickets)
        self._finish(tickets, error)
        for render in dict.fromkeys(ticket.render for ticket in tickets):
            with self._lock:
                unwanted = not any(ticket.is_live for ticket in render.tickets)
                if unwanted:
                    self._close_render(render)
            if unwanted and not render.result.done():
                self._queue.cancel(render, error)  # its end is settled, and lets go of the rest

    def _finish(self, tickets: Iterable[Ticket], error: BaseException | None) -> None:
        """Write down why tickets failed, take them off the tables, wake those who wait."""
        live = [ticket for ticket in tickets if ticket.is_live]
        if error is not None and not isinstance(error, ReplacedError):
            code = error.code if isinstance(error, LumiplyError) else "internal_error"
            for ticket in live:
                why = Failure(code, sentence_of(error))
                self._store.fail(ticket.job_id, ticket.render.recipe, ticket.colors, why)
        with self._lock:
            self._ended += 1
            for ticket in live:
                if not ticket.is_live:
                    continue
                active = self._active.get(ticket.job_id)
                if active is not None and ticket in active.tickets:
                    active.tickets.remove(ticket)
                    if not active.tickets:
                        del self._active[ticket.job_id]
                if error is None:
                    ticket.done.set_result(None)
                else:
                    ticket.done.set_exception(error)

    def _close_render(self, render: Render) -> None:
        """From now on nobody joins it. Locked."""
        for color in render.colors:
            if self._under_way.get((render.recipe, color)) is render:
                del self._under_way[(render.recipe, color)]


def _is_live(ticket: Ticket) -> bool:
    return ticket.is_live


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Name a full disk as such."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError from exc
        raise
