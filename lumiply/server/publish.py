"""From a render to files, or to the reason why there are none, for every job that has a claim on it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import functools
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from lumiply.engine.threads import usable_cpus
from lumiply.errors import CancelledError, LumiplyError, OutdatedError, ReplacedError, StorageFullError
from lumiply.images import encode_jpeg
from lumiply.server.claims import Claims
from lumiply.server.metrics import Metrics
from lumiply.server.names import PHOTO_NAME, output_name
from lumiply.server.record import Failure
from lumiply.server.render import Pictures, Render, Ticket
from lumiply.server.sentences import sentence_of
from lumiply.server.store import JobStore

log = logging.getLogger(__name__)


#: JPEGs that are encoded at once, where there are so many processors: a job has seven.
ENCODERS: Final = 7


class Publisher:
    """Encodes and writes on a thread of its own, one render after the other, the pictures of each side by side."""

    def __init__(self, store: JobStore, claims: Claims, metrics: Metrics) -> None:
        self._store, self._claims, self._metrics = store, claims, metrics
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lumiply-store")
        self._encoders = ThreadPoolExecutor(
            min(ENCODERS, max(2, usable_cpus())), thread_name_prefix="lumiply-encode"
        )

    def expect(self, render: Render) -> None:
        """Publish a render once it has ended."""
        render.result.add_done_callback(functools.partial(self._hand_over, render))

    def finish(self, tickets: Iterable[Ticket], error: BaseException | None) -> None:
        """Write down why tickets failed, if they did, and wake those who wait."""
        live = [ticket for ticket in tickets if ticket.is_live]
        if error is not None and not isinstance(error, (ReplacedError, OutdatedError)):
            code = error.code if isinstance(error, LumiplyError) else "internal_error"
            for ticket in live:
                why = Failure(code, sentence_of(error))
                self._store.fail(ticket.job_id, ticket.render.recipe, ticket.colors, why)
        self._claims.end(live, error)

    def close(self) -> None:
        """Finish writing. Safe to call twice."""
        self._writer.shutdown(wait=True)
        self._encoders.shutdown(wait=True)

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
            while ticket := self._claims.next_of(render):
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
        encoded = self._encoders.map(functools.partial(encode_jpeg, quality=quality), pictures.values())
        files = dict(zip(map(output_name, pictures), encoded, strict=True))
        return {PHOTO_NAME: render.photo_file.result(), **files}

    def _publish_for(self, ticket: Ticket, files: dict[str, bytes]) -> None:
        names = [PHOTO_NAME, *(output_name(color) for color in ticket.colors)]
        error: BaseException | None = None
        try:
            with storage_errors():
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
        self.finish([ticket], error)

    def _settle(self, render: Render, error: BaseException) -> None:
        """A render came to nothing: tell all who wait."""
        self.finish(self._claims.close(render), error)
        render.release()


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Name a full disk as such."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError from exc
        raise
