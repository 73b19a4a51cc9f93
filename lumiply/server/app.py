"""The Flask application."""

from __future__ import annotations

from flask import Flask
from flask_cors import CORS

from lumiply.engine.protocol import Engine
from lumiply.server.answers import install_error_handlers
from lumiply.server.callbacks import Sender
from lumiply.server.page import page
from lumiply.server.results import ResultFiles
from lumiply.server.site import Site
from lumiply.server.slot import EngineSlot
from lumiply.server.store import JobStore
from lumiply.server.views import health, process
from lumiply.settings import Settings


def create_app(
    settings: Settings | None = None,
    engine: Engine | EngineSlot | None = None,
    *,
    store: JobStore | None = None,
    sender: Sender | None = None,
) -> Flask:
    """Build the application; nothing is read, loaded or listened to.

    Args:
        settings: the defaults if None.
        engine: what renders, or the slot in which it will stand once loaded. With None, the server says that
            it is loading for ever.
        store: where results go; `settings.results_dir` if None.
        sender: how callbacks leave; the standard library if None.
    """
    settings = settings or Settings()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.max_upload_mb * 1e6)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    CORS(app)
    site = Site.build(settings, engine, store, sender)
    site.install(app)
    install_error_handlers(app, settings.max_upload_mb)
    app.register_blueprint(process)
    app.register_blueprint(health)
    app.register_blueprint(page)
    app.wsgi_app = ResultFiles(app.wsgi_app, site.store.root)  # type: ignore[method-assign]
    return app
