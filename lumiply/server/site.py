"""What the views of one application share, and how they get at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from flask import Flask, current_app, request
from werkzeug.exceptions import BadRequest

from lumiply.engine.protocol import Engine
from lumiply.server.callbacks import Callbacks, Sender
from lumiply.server.jobs import Jobs
from lumiply.server.results import RESULTS_PATH
from lumiply.server.slot import EngineSlot
from lumiply.server.store import JobStore
from lumiply.settings import Settings

_KEY: Final = "lumiply"


@dataclass
class Site:
    """The parts of a server.

    Attributes:
        public_url: where others reach the server; None: wherever a request says that it came to. May change
            while the server runs, as a tunnel opens.
    """

    settings: Settings
    engine: EngineSlot
    store: JobStore
    jobs: Jobs
    callbacks: Callbacks
    public_url: str | None = None

    @classmethod
    def build(
        cls,
        settings: Settings,
        engine: Engine | EngineSlot | None,
        store: JobStore | None = None,
        sender: Sender | None = None,
    ) -> Site:
        """Put the parts together."""
        slot = engine if isinstance(engine, EngineSlot) else EngineSlot(engine)
        store = store or JobStore(settings.results_dir)
        jobs = Jobs(store, slot, settings)
        callbacks = Callbacks(settings.callback_hosts, sender)
        return cls(settings, slot, store, jobs, callbacks, settings.public_url)

    def install(self, app: Flask) -> None:
        """Make this the site of `app`."""
        app.extensions[_KEY] = self

    def result_url(self, job_id: str, name: str) -> str:
        """Address of a result, within a request.

        Raises:
            BadRequest: no public address is known, and the request's `Host` is none.
        """
        if self.public_url is None and not request.host:
            raise BadRequest
        base = self.public_url or request.host_url.rstrip("/")
        return f"{base}{RESULTS_PATH}/{job_id}/{name}"

    def close(self) -> None:
        """Finish writing, drop callbacks. The engine is its maker's to close, before this."""
        self.jobs.close()
        self.callbacks.close()


def site_of(app: Flask) -> Site:
    """The site of an application that `create_app` made."""
    return cast(Site, app.extensions[_KEY])


def current_site() -> Site:
    """The site that answers the current request."""
    return site_of(current_app)
