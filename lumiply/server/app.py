"""The Flask application."""

from __future__ import annotations

from flask import Flask
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix

from lumiply.engine.protocol import Engine
from lumiply.server.access import install_access_log
from lumiply.server.answers import install_error_handlers
from lumiply.server.api_page import api_page
from lumiply.server.job_views import jobs
from lumiply.server.openapi import openapi
from lumiply.server.outbound import Sender
from lumiply.server.page import page
from lumiply.server.results import results
from lumiply.server.site import Site
from lumiply.server.slot import EngineSlot
from lumiply.server.status_views import status
from lumiply.server.store import JobStore
from lumiply.server.views import process
from lumiply.settings import Settings

#: Limits on forms: bytes of a field that is no file (Werkzeug's buffer needs as much itself), and parts.
_FORM_BYTES, _FORM_PARTS = 500_000, 20


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
        engine: what renders, or the slot in which it will stand once loaded. With None, the server is loading
            for ever.
        store: where results go; where the settings say if None.
        sender: how callbacks leave; the standard library if None.
    """
    settings = settings or Settings()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.max_upload_mb * 1e6)
    app.config["MAX_FORM_MEMORY_SIZE"] = _FORM_BYTES
    app.config["MAX_FORM_PARTS"] = _FORM_PARTS
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False
    install_access_log(app)
    Site.build(settings, engine, store, sender).install(app)
    if settings.cors_origins:
        CORS(app, origins=list(settings.cors_origins), send_wildcard="*" in settings.cors_origins)
    install_error_handlers(app, settings.max_upload_mb)
    for blueprint in (process, jobs, results, status, openapi, api_page, page):
        app.register_blueprint(blueprint)
    if count := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, count, count, count)  # type: ignore[method-assign]
    return app
