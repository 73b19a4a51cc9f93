"""One replica: an engine of its own on its share of the cluster, and what it says while it renders.

Ray Serve makes it an actor (`lumiply.cluster.deployment`); nothing here needs Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from lumiply.engine.protocol import Engine, EngineInfo, Progress
from lumiply.errors import CancelledError, LumiplyError, OutdatedError

Pictures = dict[str, Image.Image]

#: What comes back of a call, in this order: any number of the first, then one of the others. Errors that the project
#: raises on purpose are values here: Ray would wrap them, and log them as faults of the replica.
Said = Progress | Pictures | LumiplyError


@dataclass(frozen=True)
class RenderCall:
    """A render on its way to a replica; all colours of a photo go together, so that it is prepared once.

    Attributes:
        fingerprint: of the engine that the caller counts on; a replica with other weights refuses.
    """

    photo: Image.Image
    colors: Sequence[str]
    seed: int
    steps: int | None
    preset: str | None
    fingerprint: str


class OtherWeightsError(OutdatedError):
    """A replica has other weights than the caller counts on; `info` is what it says of itself."""

    def __init__(self, fingerprint: str, info: EngineInfo) -> None:
        super().__init__(
            f"this replica has other weights, or another precision ({info.fingerprint}), than the server counts on"
            f" ({fingerprint}); if that lasts, give all machines the same files, set LUMIPLY_PRECISION=float16 where"
            " their GPUs are of different kinds, then start the application again"
        )
        self.info = info


class Replica:
    """Holds one engine; renders and tells how far it is."""

    def __init__(self, build: Callable[[], Engine], stuck_after_s: float) -> None:
        """Load the engine, which takes seconds.

        Args:
            build: loads it.
            stuck_after_s: seconds without progress, while there is something to do, after which it counts as ill.
        """
        self._engine = build()
        self._stuck_after = stuck_after_s
        self._last_progress = time.monotonic()
        self._replicas = 1
        self._asked = ""

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Told by Ray Serve, at the start and on a change.

        Args:
            config: "replicas": the most there may be; "asked": stands for all that they were asked for with.
        """
        self._replicas, self._asked = int(config["replicas"]), str(config["asked"])

    def asked(self) -> str:
        """What stands for the settings and files by which the application was started."""
        return self._asked

    def info(self) -> EngineInfo:
        """What runs here; `parallel` and `ahead` count all replicas that there may be: callers keep them all busy."""
        info, count = self._engine.info, self._replicas
        # Serve counts requests, not pictures
        return replace(info, parallel=info.parallel * count, ahead=info.most_ahead * count, batch=0)

    def check_health(self) -> None:
        """Asked by Ray Serve every few seconds; a replica that raises thrice is replaced.

        Raises:
            RuntimeError: the engine died, or makes no progress.
        """
        if not getattr(self._engine, "alive", True):
            raise RuntimeError("the engine's worker died")
        idle = time.monotonic() - self._last_progress
        if self._engine.queue_length and idle > self._stuck_after:
            raise RuntimeError(f"the engine made no progress for {idle:.0f} s")

    async def relight(self, call: RenderCall) -> AsyncIterator[Said]:
        """Render a photo; cancelling this stops the render."""
        if call.fingerprint != self._engine.info.fingerprint:
            yield OtherWeightsError(call.fingerprint, self.info())
            return
        loop = asyncio.get_running_loop()
        said: asyncio.Queue[Progress | Future[Pictures]] = asyncio.Queue()

        def tell(what: Progress | Future[Pictures]) -> None:
            self._last_progress = time.monotonic()
            loop.call_soon_threadsafe(said.put_nowait, what)

        if not self._engine.queue_length:
            self._last_progress = time.monotonic()
        more: dict[str, Any] = {"preset": call.preset} if call.preset else {}
        try:
            future = self._engine.submit(
                call.photo, call.colors, seed=call.seed, steps=call.steps, progress=tell, **more
            )
        except LumiplyError as error:
            yield error
            return
        future.add_done_callback(tell)
        try:
            while isinstance(now := await said.get(), Progress):
                yield now
        finally:
            future.cancel()  # nobody listens any more; without effect once it is done
        yield outcome(future)

    def __del__(self) -> None:
        """Called by Ray Serve once the replica has finished what it had."""
        engine = getattr(self, "_engine", None)  # missing where it could not be loaded
        if engine is not None:
            engine.close(5.0)


def outcome(future: Future[Pictures]) -> Pictures | LumiplyError:
    """How a render ended, as a value.

    Raises:
        Exception: nobody foresaw it.
    """
    if future.cancelled():
        return CancelledError("the render was cancelled")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, LumiplyError):
        return error
    raise error
