"""From settings to an engine over Ray: connect, see that the application runs, ask what it is."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from lumiply.engine.protocol import Engine
from lumiply.errors import EngineClosedError, SettingsError
from lumiply.settings import Settings

try:
    # Ray reports its use to its makers unless told otherwise, before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve
    from ray.serve.schema import ApplicationStatus
except ImportError as exc:
    raise SettingsError(
        "engine=ray needs Ray, which is not installed. Run `pip install 'lumiply[cluster]'`, or unset LUMIPLY_ENGINE."
    ) from exc

from lumiply.cluster.deployment import (
    APPLICATION,
    DEPLOYMENT,
    application,
    asked_by,
    replica_range,
    wants_gpu,
)
from lumiply.cluster.engine import RayEngine

log = logging.getLogger(__name__)

#: Seconds that the first replica is given to load; the published weights take about 20 s from a warm disk.
FIRST_REPLICA_S: Final = 1800.0

#: Seconds that a replica is given to say how it was asked for.
ANSWER_S: Final = 10.0
#: Ray is started this often, should it not come up.
STARTS: Final = 2

#: Unhealthy means that a replica died and Serve is replacing it.
_UP: Final = (ApplicationStatus.DEPLOYING, ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Give the process its own SIGTERM handler back, whichever thread this is.

    Ray puts in one that aborts the process three seconds after the signal, whatever still has to be finished.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, former = ctypes.CDLL(None), ctypes.create_string_buffer(512)  # more than a `struct sigaction` takes
    libc.sigaction(signal.SIGTERM, None, former)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, former, None)


class _Connection:
    """This process's one connection to Ray, shared by engines: a new one may be there before the old one closes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Ray's processes die with the thread that started them, so that thread stays.
        self._thread = ThreadPoolExecutor(1, "lumiply-ray")
        self._users = 0
        self._started_here = False
        self._opened_with: tuple[str | None] | None = None  # the address; None where others opened it

    def open(self, address: str | None) -> None:
        """Connect, or share the connection that there is.

        Raises:
            SettingsError: no cluster answers there, or the connection leads to another one.
            EngineClosedError: Ray could not be started.
        """
        with self._lock:
            if self._users == 0 and not ray.is_initialized():
                self._thread.submit(self._connect, address).result()
                self._started_here, self._opened_with = address is None, (address,)
            elif self._opened_with is not None and self._opened_with != (address,):
                here, there = self._opened_with[0] or "of its own", address or "one of its own"
                raise SettingsError(
                    f"this process is connected to the Ray cluster {here}, and can be to one only; asked for was"
                    f" {there}. Start the process anew (in a notebook, restart the kernel), or set"
                    " LUMIPLY_RAY_ADDRESS as it was."
                )
            self._users += 1

    def _connect(self, address: str | None) -> None:
        with _sigterm_kept():
            self._init(address)

    def _init(self, address: str | None) -> None:
        if address is None:
            self._start()
            return
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as exc:
            raise SettingsError(
                f"no Ray cluster answers at {address}: {_first_line(exc)}"
                " Start one with `ray start --head`, or leave --address away to start Ray here."
            ) from exc

    def _start(self) -> None:
        """Start Ray on this machine. It gives its own programs seconds, which a busy machine may not have."""
        for attempt in range(STARTS):
            try:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    logging_level=logging.WARNING,
                    _node_ip_address="127.0.0.1",
                )
                return
            except Exception as exc:  # Ray raises plain ones
                ray.shutdown()
                log.warning("Ray did not start (attempt %d of %d): %s", attempt + 1, STARTS, _first_line(exc))
                cause = exc
        raise EngineClosedError(
            f"Ray could not be started on this machine: {_first_line(cause).rstrip('.')}. Its logs lie in"
            " /tmp/ray/session_latest/logs; see that the machine has processor time and memory to spare, then start"
            " again."
        ) from cause

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._started_here:
                serve.shutdown()
                ray.shutdown()
                self._started_here = False


_connection = _Connection()


def connect(settings: Settings, load: Callable[[], Engine] | None = None) -> RayEngine:
    """The engine over Ray. Returns once a replica is loaded.

    Without `settings.ray_address`, Ray is started on this machine, and ends with the engine. Otherwise the
    application that runs there is used; it is started if there is none, changed if `settings.replicas` is given and
    it is another than they ask for, and left running.

    Args:
        load: loads a replica's engine; from the settings by default.

    Raises:
        SettingsError: no cluster answers, it has no GPU and one is asked for, or the process is connected to another.
        EngineClosedError: Ray could not be started, or no replica brought up.
    """
    _connection.open(settings.ray_address)
    try:
        up = is_up()
        if up and settings.replicas is not None and load is None and runs_as_asked(settings):
            log.info("the application runs already as the settings ask; its replicas go on")
        elif not up or settings.replicas is not None:
            deploy(settings, load)
        handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        info = handle.info.remote().result(timeout_s=FIRST_REPLICA_S)
    except BaseException:
        _connection.close()
        raise
    return RayEngine(handle, info, queue_size=settings.queue_size, is_up=is_up, disconnect=_connection.close)


def runs_as_asked(settings: Settings) -> bool:
    """Whether the application was started by such settings, from such files: Serve would replace all its replicas."""
    try:
        handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        return bool(handle.asked.remote().result(timeout_s=ANSWER_S) == asked_by(settings))
    except Exception as exc:  # none answers, or it is none of this version
        log.debug("the application is started anew: %s", exc)
        return False


def deploy(settings: Settings, load: Callable[[], Engine] | None = None) -> None:
    """Bring the application up as the settings say, or change it to that, and wait until it is.

    Raises:
        SettingsError: a GPU is asked for and the cluster has none.
        EngineClosedError: no replica could be brought up.
    """
    resources = ray.cluster_resources()
    needed, kind = replica_range(settings.replicas)[0], "GPU" if wants_gpu(settings) else "CPU"
    if settings.device == "cuda" and not resources.get("GPU"):
        raise SettingsError("device=cuda is asked for and the cluster has no GPU; set LUMIPLY_DEVICE=auto")
    if resources.get(kind, 0) < needed:
        log.warning(
            "%d replicas are asked for and the cluster has %g %ss: it waits until machines join it",
            needed, resources.get(kind, 0), kind,
        )  # fmt: skip
    serve.start(proxy_location="Disabled")  # the server itself speaks HTTP
    try:
        serve.run(application(settings, load), name=APPLICATION, route_prefix=None)
    except RuntimeError as exc:
        raise EngineClosedError(f"no replica could be brought up: {_why() or exc}") from exc


def is_up() -> bool:
    """Whether Ray Serve runs the application, or is bringing it, or some of its replicas, up."""
    try:
        found = serve.status().applications.get(APPLICATION)
    except Exception as exc:  # whatever Ray says of a cluster that is not there
        log.warning("the cluster does not answer: %s", exc)
        return False
    return found is not None and found.status in _UP


def _why() -> str:
    found = serve.status().applications.get(APPLICATION)
    return " ".join(found.message.split())[-500:] if found is not None else ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
