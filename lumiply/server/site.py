"""What the views of one application share, and how they get at it."""

from __future__ import annotations

import functools
import logging
import threading
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlencode

from flask import Flask, current_app, request
from werkzeug.exceptions import BadRequest

from lumiply.engine.protocol import Engine
from lumiply.server.auth import SIGNATURE_QUERY, ResultSigner, keep_token, load_secret, require_token
from lumiply.server.callbacks import Callbacks
from lumiply.server.dispatch import RenderQueue
from lumiply.server.jobs import Jobs
from lumiply.server.metrics import Metrics
from lumiply.server.outbound import PinnedSender, Sender
from lumiply.server.retention import Sweeper
from lumiply.server.slot import EngineSlot
from lumiply.server.storage import storage_of
from lumiply.server.store import JobStore
from lumiply.settings import Settings

log = logging.getLogger(__name__)

_KEY: Final = "lumiply"

#: Where the results stand; part of the HTTP contract, and of URLs that clients keep.
RESULTS_PATH: Final = "/static/inference"


@dataclass
class Site:
    """The parts of a server.

    Attributes:
        public_url: where others reach the server; None: wherever a request says that it came to. May change
            while the server runs, as a tunnel opens.
        token: what calls must carry; None: nothing. May change as well.
    """

    settings: Settings
    engine: EngineSlot
    store: JobStore
    queue: RenderQueue
    jobs: Jobs
    sweeper: Sweeper
    callbacks: Callbacks
    metrics: Metrics
    public_url: str | None = None
    token: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_open: bool = False

    @classmethod
    def build(
        cls,
        settings: Settings,
        engine: Engine | EngineSlot | None,
        store: JobStore | None = None,
        sender: Sender | None = None,
    ) -> Site:
        """Put the parts together. Nothing is read and no thread started.

        Raises:
            SettingsError: results cannot live where the settings say.
        """
        slot = engine if isinstance(engine, EngineSlot) else EngineSlot(engine)
        store = store or JobStore(storage_of(settings), render_s=settings.request_timeout_s)
        metrics = Metrics()
        queue = RenderQueue(slot, metrics, size=settings.queue_size, stuck_after_s=settings.stuck_after_s)
        jobs = Jobs(store, slot, queue, settings, metrics)
        sweeper = Sweeper(store, metrics, jobs.is_active, days=settings.keep_days, gigabytes=settings.keep_gb)
        callbacks = Callbacks(
            settings.callback_hosts,
            sender or PinnedSender(settings.callback_private),
            secret=functools.partial(load_secret, settings.results_dir, settings.secret_key),
            outcome=lambda outcome: metrics.callbacks.labels(outcome).inc(),
        )
        metrics.gauge("lumiply_queue_length", "Renders accepted and not yet ended.", lambda: queue.length)
        metrics.gauge(
            "lumiply_engine_ready", "1 while a loaded engine makes progress.", lambda: slot.state == "ready"
        )
        public_url, token = settings.public_url, settings.token
        return cls(settings, slot, store, queue, jobs, sweeper, callbacks, metrics, public_url, token)

    def install(self, app: Flask) -> None:
        """Make this the site of `app`, and open it with the first request at the latest."""
        app.extensions[_KEY] = self
        app.before_request(self.open)

    def open(self) -> None:
        """Read what the results folder holds, sweep leftovers, start the background threads. Cheap when open."""
        if self._is_open:
            return
        with self._lock:
            if not self._is_open:
                try:
                    self.store.open()
                except OSError as exc:  # jobs will say so; /health goes on
                    log.error("results folder not readable: %s", exc)
                if self.settings.page == "token":
                    self.need_token()
                self.store.start()
                self.queue.start()
                self.sweeper.start()
                self._is_open = True

    def need_token(self) -> None:
        """From now on there is a token: the settings' own, else the one that the results folder keeps."""
        if self.token is None and self.settings.auth == "auto":
            self.token = keep_token(self.settings.results_dir)

    def authorize(self) -> None:
        """Let the current request pass if it carries the token.

        Raises:
            UnauthorizedError: it does not.
        """
        require_token(request, self.token)

    @functools.cached_property
    def signer(self) -> ResultSigner | None:
        """What signs results' addresses; None if they are not signed."""
        if not self.settings.sign_urls:
            return None
        return ResultSigner(load_secret(self.settings.results_dir, self.settings.secret_key))

    @property
    def base_url(self) -> str:
        """Where the client of the current request reaches the server.

        Raises:
            BadRequest: no public address is known, and the request has no `Host`, or one that is none.
        """
        if self.public_url is not None:
            return self.public_url
        if "HTTP_HOST" not in request.environ or not request.host:
            raise BadRequest
        return request.host_url.rstrip("/")

    def result_url(self, job_id: str, name: str) -> str:
        """Address of a result, within a request. Raises as `base_url`."""
        query = "?" + urlencode({SIGNATURE_QUERY: self.signer.sign(job_id, name)}) if self.signer else ""
        return f"{self.base_url}{RESULTS_PATH}/{job_id}/{name}{query}"

    def close(self, timeout: float | None = None) -> None:
        """End renders within `timeout` seconds (the setting, by default), finish writing, drop callbacks.

        The engine is its maker's to close. Safe to call twice.
        """
        self.jobs.close(self.settings.shutdown_s if timeout is None else timeout)
        self.sweeper.close()
        self.store.close()
        self.callbacks.close()


def site_of(app: Flask) -> Site:
    """The site of an application that `create_app` made."""
    return cast(Site, app.extensions[_KEY])


def find_site(app: object) -> Site | None:
    """The site of an application that `create_app` made; None for any other."""
    site = getattr(app, "extensions", {}).get(_KEY)
    return site if isinstance(site, Site) else None


def current_site() -> Site:
    """The site that answers the current request."""
    return site_of(current_app)


def guard() -> None:
    """Let nobody without the token get further, but for a browser that asks, without one, whether a page may call.

    Raises:
        UnauthorizedError: the current request does not carry it.
    """
    if request.method != "OPTIONS":
        current_site().authorize()
