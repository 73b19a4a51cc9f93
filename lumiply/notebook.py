"""What the notebook calls, so that its cells stay short and may be run again."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lumiply import client
from lumiply.colors import COLORS
from lumiply.demo import find_sample
from lumiply.engine.protocol import Engine
from lumiply.server.service import Service
from lumiply.server.tunnel import choose_tunnel
from lumiply.settings import PREFIX, Settings
from lumiply.sheet import contact_sheet

log = logging.getLogger(__name__)

_lock = threading.Lock()
_services: list[Service] = []  # at most one: what the last `serve` started


def read_settings(**cell: Any) -> Settings:
    """The settings: those of the environment, then the cell's, then the defaults; the token from Colab's secrets.

    Raises:
        SettingsError: a name or value that cannot be meant.
    """
    named = {name: value for name, value in cell.items() if PREFIX + name.upper() not in os.environ}
    if not any(os.environ.get(name) for name in (PREFIX + "NGROK_AUTHTOKEN", "NGROK_AUTHTOKEN")):
        named.setdefault("ngrok_authtoken", _colab_secret("NGROK_AUTHTOKEN"))
    return Settings.from_env(**named)


def serve(engine: Engine, settings: Settings) -> Service:
    """Start serving in the background; what an earlier call started is closed first.

    Raises:
        AddressError: another program uses the port.
        TunnelError: no public address could be opened.
    """
    stop()
    service = Service(settings, engine, choose_tunnel(settings)).start()
    service.on_move = lambda moved: print(moved.announcement())
    with _lock:
        _services.append(service)
    return service


def stop() -> None:
    """Close what `serve` started. Safe to call twice."""
    with _lock:
        services, _services[:] = list(_services), []
    for service in services:
        service.close()


def try_out(service: Service, photo: str | Path | None = None, *, cell: int = 320) -> Image.Image:
    """Send a photo (by default a sample room) in all seven colours over HTTP; the results as a contact sheet.

    Raises:
        RemoteError: the server answered with an error.
    """
    path = Path(photo) if photo else find_sample()
    job_id = f"notebook-{secrets.token_hex(4)}"
    with Image.open(path) as opened:
        pictures = {"off": opened.convert("RGB")}
    for color in COLORS:
        url = client.process(service.url, path, job_id, color)["result"]["images"][color]
        local = url.replace(service.public_url, service.url, 1)  # no need to go out and come back
        pictures[color] = Image.open(BytesIO(client.fetch(local)))
    return contact_sheet(pictures, cell=cell)


def _colab_secret(name: str) -> str | None:
    """A secret of Colab's key sign, if this is Colab and the notebook may read it."""
    try:
        userdata = importlib.import_module("google.colab.userdata")
        secret: str | None = userdata.get(name)
    except ImportError:
        return None
    except Exception as exc:  # its own errors: no such secret, no access
        log.info("Colab secret %s not used: %s", name, type(exc).__name__)
        return None
    return secret
