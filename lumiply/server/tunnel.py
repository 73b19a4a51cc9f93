"""A public address for a server on this machine."""

from __future__ import annotations

import logging
from typing import Protocol

from lumiply.errors import TunnelError
from lumiply.settings import Settings

log = logging.getLogger(__name__)


class Tunnel(Protocol):
    """Leads from a public address to a port here."""

    def open(self, port: int) -> str | None:
        """The public URL, without a slash at its end; None if this opens nothing. Raises TunnelError."""
        ...

    def close(self) -> None:
        """Close it. Safe to call twice."""
        ...

    def explain(self) -> str:
        """One sentence on why there is no address; empty if there is one."""
        ...


class NoTunnel:
    """Opens nothing, and says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def open(self, port: int) -> str | None:
        return None

    def close(self) -> None:
        pass

    def explain(self) -> str:
        return self._reason


class NgrokTunnel:
    """A tunnel of ngrok's agent, which pyngrok downloads and runs."""

    def __init__(self, authtoken: str) -> None:
        self._authtoken = authtoken
        self._url: str | None = None

    def open(self, port: int) -> str | None:
        try:
            from pyngrok import conf, ngrok
            from pyngrok.exception import PyngrokError
        except ImportError as exc:
            raise TunnelError(
                "pyngrok is not installed. Run `pip install pyngrok`, or set LUMIPLY_TUNNEL=none."
            ) from exc
        config = conf.PyngrokConfig(auth_token=self._authtoken)
        try:
            url = ngrok.connect(str(port), "http", pyngrok_config=config).public_url
        except (PyngrokError, OSError) as exc:
            # The agent's own text may quote the token, so neither it nor its traceback goes on.
            detail = getattr(exc, "ngrok_error_code", None) or type(exc).__name__
            log.debug("ngrok: %s", str(exc).replace(self._authtoken, "***"))
            raise TunnelError(
                f"ngrok opened no tunnel ({detail}). Check the token and that no other tunnel of the account is"
                " open (https://dashboard.ngrok.com/agents), or set LUMIPLY_TUNNEL=none."
            ) from None
        if not url:
            raise TunnelError("ngrok named no public address. Try again, or set LUMIPLY_TUNNEL=none.")
        self._url = url.replace("http://", "https://", 1).rstrip("/")
        return self._url

    def close(self) -> None:
        if self._url is None:
            return
        self._url = None
        from pyngrok import conf, ngrok

        ngrok.kill(conf.PyngrokConfig(auth_token=self._authtoken))

    def explain(self) -> str:
        return ""


def choose_tunnel(settings: Settings) -> Tunnel:
    """The tunnel that the settings ask for."""
    if settings.public_url is not None:
        return NoTunnel("")
    if settings.tunnel == "none":
        return NoTunnel(
            "LUMIPLY_TUNNEL=none 이므로 터널을 열지 않았습니다. 이 컴퓨터에서만 접속할 수 있습니다."
        )
    if settings.ngrok_authtoken is None:
        return NoTunnel(
            "ngrok 토큰이 없어 터널을 열지 않았습니다. 외부에서 접속하려면 NGROK_AUTHTOKEN을 설정하고 다시 실행하세요"
            " (https://dashboard.ngrok.com/get-started/your-authtoken)."
        )
    return NgrokTunnel(settings.ngrok_authtoken)
