"""A public address for a server on this machine: ngrok's, one that others provide, or none."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from lumiply.server.ngrok import NgrokTunnel
from lumiply.settings import Settings

log = logging.getLogger(__name__)

#: Seconds between two looks at an open tunnel, and most seconds between two tries to reopen it.
LOOK_S: Final = 5.0
MOST_WAIT_S: Final = 60.0


class Tunnel(Protocol):
    """Leads from a public address to a port here.

    Attributes:
        on_move: called with the new address if the tunnel had to be opened anew and has another one; from another
            thread.
    """

    on_move: Callable[[str], None]

    def open(self, port: int) -> str | None:
        """The public URL, without a slash at its end; None if this opens nothing. Raises TunnelError."""
        ...

    def is_open(self) -> bool:
        """Whether the address still leads here, as far as can be told from here."""
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
        self.on_move: Callable[[str], None] = lambda url: None
        self._reason = reason

    def open(self, port: int) -> str | None:
        return None

    def is_open(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def explain(self) -> str:
        return self._reason


class KeptTunnel:
    """Keeps another tunnel open: looks after it from a thread, and opens it again when it is gone.

    Args:
        tunnel: what is kept open.
        look_s: seconds between two looks.
    """

    def __init__(self, tunnel: Tunnel, look_s: float = LOOK_S) -> None:
        self.on_move: Callable[[str], None] = lambda url: None
        self._tunnel = tunnel
        self._look_s = look_s
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, port: int) -> str | None:
        url = self._tunnel.open(port)
        if url is not None:
            self._stopped = threading.Event()
            self._thread = threading.Thread(
                target=self._keep, args=(port, url, self._stopped), name="lumiply-tunnel", daemon=True
            )
            self._thread.start()
            self._close_at_exit()
        return url

    def is_open(self) -> bool:
        return self._tunnel.is_open()

    def close(self) -> None:
        self._stopped.set()
        atexit.unregister(self.close)
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._tunnel.close()

    def explain(self) -> str:
        return self._tunnel.explain()

    def _close_at_exit(self) -> None:
        """Be closed before anything that was registered so far ends the agent, which would then be missed."""
        atexit.unregister(self.close)
        atexit.register(self.close)

    def _keep(self, port: int, url: str, stopped: threading.Event) -> None:
        wait = self._look_s
        while not stopped.wait(wait):
            try:
                url = self._reopen_if_gone(port, url, stopped)
                wait = self._look_s
            except (
                Exception
            ) as exc:  # also what has nothing to do with tunnels, such as a full disk: it may pass
                wait = min(2 * wait, MOST_WAIT_S)
                log.warning("not opened, trying again in %.0f s: %s", wait, exc)

    def _reopen_if_gone(self, port: int, url: str, stopped: threading.Event) -> str:
        """The address that leads here now."""
        if self._tunnel.is_open():
            return url
        log.warning("the tunnel %s is gone; opening it again", url)
        opened = self._tunnel.open(port)
        if not stopped.is_set():
            self._close_at_exit()
        if opened is None or opened == url:
            log.warning("the tunnel %s is open again", url)
            return url
        self.on_move(opened)
        return opened


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
    return KeptTunnel(NgrokTunnel(settings.ngrok_authtoken))
