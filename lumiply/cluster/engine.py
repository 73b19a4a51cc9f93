"""The engine of a server whose renders happen elsewhere: each goes to a replica, through a Ray Serve handle.

Serve sends a render to the less busy of two replicas drawn at random, and holds back what has no room yet. A render
whose replica died is sent again, to another; as its noise comes from its seed, the pictures are the same.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from PIL import Image
from ray.exceptions import ObjectLostError, RayActorError, RayError, TaskCancelledError, WorkerCrashedError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from lumiply.cluster.replica import OtherWeightsError, Pictures, RenderCall, Said
from lumiply.colors import in_palette_order
from lumiply.engine.protocol import (
    DEFAULT_SEED,
    MOST_STEPS,
    EngineInfo,
    Progress,
    ProgressCallback,
    require_seed,
)
from lumiply.errors import (
    BusyError,
    EngineClosedError,
    LumiplyError,
    RenderError,
    StuckError,
    UserError,
)

log = logging.getLogger(__name__)

#: A render is sent this often in all, should replicas die under it: it may be what kills them.
ATTEMPTS: Final = 3
#: Seconds between two looks at the cluster while something waits for it.
LOOK_S: Final = 5.0
#: Seconds between a replica's refusal and the next attempt: while they are replaced, some have the former weights.
REFUSED_S: Final = 0.5

#: The replica is gone, with its process or its machine. A request that Serve took back, not we, means the same.
_LOST: Final = (
    RayActorError,
    WorkerCrashedError,
    ObjectLostError,
    RequestCancelledError,
    TaskCancelledError,
    EOFError,
)


class RayEngine:
    """Renders on the replicas of a Ray Serve application. Implements `Engine`."""

    def __init__(
        self,
        handle: DeploymentHandle,
        info: EngineInfo,
        *,
        queue_size: int,
        is_up: Callable[[], bool],
        disconnect: Callable[[], None],
    ) -> None:
        """Start looking after the application.

        Args:
            handle: of the deployment of `lumiply.cluster.replica.Replica`.
            info: what its replicas say of themselves.
            queue_size: renders that may wait besides those that keep the replicas busy.
            is_up: whether Ray Serve runs the application, or is bringing it up.
            disconnect: called once, when the engine closes.
        """
        self._handle = handle.options(stream=True, method_name="relight")
        self._queue_size = queue_size
        self._count_on(info)
        self._is_up, self._disconnect = is_up, disconnect
        self._lock = threading.Lock()
        self._open: dict[Future[Pictures], _Journey] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._look, name="lumiply-cluster", daemon=True).start()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def closed(self) -> bool:
        """Whether it was told to end."""
        return self._closing.is_set()

    @property
    def queue_length(self) -> int:
        with self._lock:
            return len(self._open)

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
        """See `Engine.submit`. A render whose replica died begins anew, and so does its progress."""
        wanted = in_palette_order(colors)
        self._check(wanted, seed, steps, preset)
        call = RenderCall(photo, wanted, seed, steps, preset, self._info.fingerprint)
        journey = _Journey(self._handle, call, progress, self._refused)
        with self._lock:
            if self._closing.is_set():
                raise EngineClosedError("the engine is shutting down; try again when it has been restarted")
            if len(self._open) >= (most := self._queue_size + self._info.most_ahead):
                raise BusyError(
                    f"{most} renders are with the cluster, the most this server sends; try again soon"
                )
            self._open[journey.future] = journey
        journey.future.add_done_callback(self._forget)
        threading.Thread(target=journey.go, name="lumiply-render", daemon=True).start()
        return journey.future

    def _check(self, colors: Sequence[str], seed: int, steps: int | None, preset: str | None) -> None:
        if not colors:
            raise UserError("no colour was asked for; name at least one of the seven")
        if missing := [color for color in colors if color not in self._info.colors]:
            raise UserError(f"no adaptor is loaded for {', '.join(missing)}; there are {self._info.colors}")
        if preset is not None and preset not in self._info.presets:
            raise UserError(f"preset must be one of {', '.join(self._info.presets)}, not {preset!r}")
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise UserError(f"steps must be from 1 to {MOST_STEPS}, got {steps}")
        require_seed(seed)

    def close(self, timeout: float | None = None) -> None:
        """See `Engine.close`. The application goes on, unless Ray was started for this engine alone."""
        with self._lock:
            already = self._closing.is_set()
            self._closing.set()
            journeys = list(self._open.values())
        if already:
            return
        for journey in journeys:
            journey.fail(EngineClosedError("the engine was shut down before this render ended"))
        self._disconnect()

    def _count_on(self, info: EngineInfo) -> None:
        self._info = replace(info, device=f"{info.device}, replicas over Ray")

    def _refused(self, error: OtherWeightsError) -> None:
        """A replica was replaced by one with other weights: from now on, count on these."""
        log.warning("%s", error)
        self._count_on(error.info)
        self._closing.wait(REFUSED_S)

    def _forget(self, future: Future[Pictures]) -> None:
        with self._lock:
            self._open.pop(future, None)

    def _look(self) -> None:
        """While Serve brings replicas up, renders wait, and are told so: nothing is stuck that Serve looks after."""
        while not self._closing.wait(LOOK_S):
            with self._lock:
                waiting = [journey for journey in self._open.values() if not journey.started]
            if waiting and self._is_up():
                for journey in waiting:
                    try:
                        journey.report(Progress("queued", 0, 0))
                    except BaseException as error:  # of the progress callback
                        journey.fail(error)


class _Journey:
    """One render, from the server to replicas and back, on a thread of its own."""

    def __init__(
        self,
        handle: Any,
        call: RenderCall,
        progress: ProgressCallback | None,
        refused: Callable[[OtherWeightsError], None],
    ) -> None:
        """`refused` is told if the replica has other weights, before the render ends."""
        self.future: Future[Pictures] = Future()
        self.started = False  # with the replica that has it now
        self._handle, self._call, self._progress, self._refused = handle, call, progress, refused
        self._response: Any = None
        self._lock = threading.Lock()
        self.future.add_done_callback(lambda future: self._stop())

    def go(self) -> None:
        """Send the render until it is answered; never raises."""
        for attempt in range(ATTEMPTS):
            answer: Pictures | BaseException | None
            try:
                with _translated():
                    answer = self._send()
            except _LOST as error:
                if self.future.done():
                    return
                log.warning(
                    "a replica was lost under a render (attempt %d): %s", attempt + 1, _first_line(error)
                )
                continue
            except BaseException as error:  # of ours, or of the progress callback
                answer = error
            if isinstance(answer, OtherWeightsError):
                self._refused(answer)
            if isinstance(answer, BaseException):
                self.fail(answer)
            elif answer is not None:
                with contextlib.suppress(Exception):  # cancelled at the last moment
                    self.future.set_result(answer)
            return
        self.fail(StuckError(f"{ATTEMPTS} replicas were lost under this render; it is not sent again"))

    def _send(self) -> Pictures | LumiplyError | None:
        """One attempt; None if the render is no longer wanted."""
        self.started = False
        with self._lock:
            if self.future.done():
                return None
            self._response = response = self._handle.remote(self._call)
        said: Said
        for said in response:
            if not isinstance(said, Progress):
                return said
            self.started = True
            self.report(said)
        raise EOFError("the replica ended without an answer")

    def report(self, now: Progress) -> None:
        if self._progress is not None and not self.future.done():
            self._progress(now)

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # done already
            self.future.set_exception(error)

    def _stop(self) -> None:
        """The future is done. If the replica still renders, it need not."""
        with self._lock:
            response, self._response = self._response, None
        if response is not None:
            response.cancel()  # without effect once it has ended


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Ray's errors in the project's words, but for those that another attempt helps."""
    try:
        yield
    except BackPressureError as error:
        raise BusyError("the cluster has as many renders waiting as it keeps; try again soon") from error
    except DeploymentUnavailableError as error:
        raise EngineClosedError("the cluster could not bring up a replica; its log says why") from error
    except _LOST:
        raise
    except (RayError, RayServeException) as error:
        raise RenderError("the render failed on its replica; the cluster's log says why") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
