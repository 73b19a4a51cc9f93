"""A running server: application, listening thread and tunnel, opened and closed together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlencode

from lumiply.engine.protocol import Engine
from lumiply.server import heap
from lumiply.server.app import create_app
from lumiply.server.auth import TOKEN_QUERY
from lumiply.server.site import site_of
from lumiply.server.slot import EngineSlot
from lumiply.server.thread import FlaskServerThread
from lumiply.server.tunnel import NoTunnel, Tunnel
from lumiply.settings import Settings

log = logging.getLogger(__name__)


class Service:
    """Serves an engine over HTTP until `close()`.

    Args:
        settings: where to listen, and all else.
        engine: what renders, or the slot that it will stand in.
        tunnel: how to reach it from outside; None for not at all.

    Attributes:
        on_move: called, from another thread, once the tunnel had to be opened anew under another address.
    """

    def __init__(self, settings: Settings, engine: Engine | EngineSlot, tunnel: Tunnel | None = None) -> None:
        self.settings = settings
        self.slot = engine if isinstance(engine, EngineSlot) else EngineSlot(engine)
        self.on_move: Callable[[Service], None] = lambda service: log.warning("%s", service.announcement())
        self._tunnel = tunnel or NoTunnel("")
        self._tunnel.on_move = self._move
        self._site = site_of(app := create_app(settings, self.slot))
        self._server = FlaskServerThread(app, settings.host, settings.port)

    @property
    def url(self) -> str:
        """Address for a client on this machine."""
        return self._server.url

    @property
    def public_url(self) -> str:
        """Address for everyone, or `url` if there is none."""
        return self._site.public_url or self.url

    @property
    def webhook_url(self) -> str:
        """What the gateway's `COLAB_WEBHOOK_URL` is to be: `/process`, with the token if there is one."""
        token = self._site.token
        return f"{self.public_url}/process" + (f"?{urlencode({TOKEN_QUERY: token})}" if token else "")

    @property
    def page_url(self) -> str:
        """Address of the web page, with the token if there is one, so that it need not be typed."""
        token = self._site.token
        return f"{self.public_url}/" + (f"?{urlencode({TOKEN_QUERY: token})}" if token else "")

    @property
    def token(self) -> str | None:
        """What calls must carry; None: nothing."""
        return self._site.token

    def start(self) -> Service:
        """Listen, then open the tunnel. Behind a tunnel there is always a token, unless the settings forbid it.

        Raises:
            AddressError: the port is in use.
            TunnelError: no public address.
            Whatever is raised, nothing listens then, and no thread is left.
        """
        try:
            self._site.open()
            if self.slot.engine is not None:
                heap.settle()
            self._server.start()
            public_url = self._tunnel.open(self._server.port)
        except BaseException:
            self.close()
            raise
        if public_url is not None:
            self._site.public_url = public_url
            self._site.need_token()
        return self

    def announcement(self) -> str:
        """What the notebook prints once it serves; part of the HTTP contract."""
        lines = [
            "✅ Colab 서버가 시작되었습니다!",
            f"🌐 Public URL: {self.public_url}",
            "📝 FastAPI의 COLAB_WEBHOOK_URL 환경 변수에 다음 URL을 설정하세요:",
            f"   {self.webhook_url}",
        ]
        reason = self._tunnel.explain()
        return "\n".join([*lines, f"ℹ️ {reason}"] if reason else lines)

    def _move(self, public_url: str) -> None:
        self._site.public_url = public_url
        self.on_move(self)

    def close(self) -> None:
        """Stop accepting, finish or hand back what runs, answer, close the tunnel. Safe to call twice.

        The engine is not closed. Renders under way are given the seconds of the setting `shutdown_s`.
        """
        self._server.stop_accepting()
        self._site.close()
        self._server.shutdown()
        self._tunnel.close()
        heap.unsettle()

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()
