"""A tunnel of ngrok's agent, which pyngrok downloads and runs, and what its refusals mean."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lumiply.errors import TunnelError

if TYPE_CHECKING:
    from pyngrok.conf import PyngrokConfig

log = logging.getLogger(__name__)

_TOKEN_PAGE: Final = "https://dashboard.ngrok.com/get-started/your-authtoken"
_AGENTS_PAGE: Final = "https://dashboard.ngrok.com/agents"

#: Begin of the name of an agent's folder; the process id of the program that it serves follows.
_FOLDER: Final = "lumiply-ngrok-"

#: What pyngrok logs of the agent's own lines, which may quote the token.
_AGENT_LOG: Final = "pyngrok.process.ngrok"

_BAD_TOKEN: Final = (
    f"ngrok does not accept the token. Copy it anew from {_TOKEN_PAGE} (the authtoken, not an API key) into"
    " NGROK_AUTHTOKEN: on Colab the key sign at the left, elsewhere the environment."
)
_NO_TOKEN: Final = (
    f"ngrok wants an account's token. Sign up, copy the token from {_TOKEN_PAGE}"
    " and set it as NGROK_AUTHTOKEN."
)

#: Refusals that users meet, by ngrok's code (https://ngrok.com/docs/errors/).
EXPLANATIONS: Final[dict[int, str]] = {
    105: _BAD_TOKEN,
    106: _BAD_TOKEN,
    107: _BAD_TOKEN,
    108: (
        "Another agent of this account is running, and its plan allows no more. Stop it there (another notebook or"
        f" computer), or at {_AGENTS_PAGE}, and run this again."
    ),
    120: "ngrok's agent is too old. Run `ngrok update` (pyngrok brings the command) and try again.",
    121: "ngrok's agent is too old. Run `ngrok update` (pyngrok brings the command) and try again.",
    334: (
        "The account's address is already online elsewhere: another notebook or computer serves it. Stop that one, or"
        f" its agent at {_AGENTS_PAGE}, wait half a minute and run this again."
    ),
    734: "ngrok limits how often this account may call it. Wait a minute and run this again.",
    4018: _NO_TOKEN,
}

_NO_AGENT: Final = (
    "ngrok's agent could not be downloaded. Check that this machine reaches the internet; or install ngrok by hand"
    " and name its program in PYNGROK_NGROK_PATH."
)
_NO_NETWORK: Final = (
    "ngrok's agent found no way to ngrok's servers. Check that this machine reaches the internet and that no firewall"
    " blocks connect.ngrok-agent.com."
)
_UNKNOWN: Final = (
    f"Check the token ({_TOKEN_PAGE}) and that no other agent of the account runs ({_AGENTS_PAGE}),"
    " and try again."
)
_OTHERWISE: Final = " Or set LUMIPLY_TUNNEL=none, or name another tunnel's address in LUMIPLY_PUBLIC_URL."

_NETWORK_WORDS: Final = (
    "no such host",
    "i/o timeout",
    "connection refused",
    "failed to dial",
    "network is unreachable",
    "temporary failure in name resolution",
)


class NgrokTunnel:
    """One tunnel, by an agent of its own.

    Args:
        authtoken: of the ngrok account. It goes to the agent in a file that only this user can read.
        agent: the agent's program; by default what `PYNGROK_NGROK_PATH` names, else pyngrok's own copy, which is
            downloaded when it is first needed.
    """

    def __init__(self, authtoken: str, agent: Path | None = None) -> None:
        self.on_move: Callable[[str], None] = lambda url: None
        self._authtoken = authtoken
        self._agent = str(agent) if agent else None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._config: PyngrokConfig | None = None
        self._opened: Any = None

    def open(self, port: int) -> str | None:
        """Start the agent and open the tunnel. Raises TunnelError: the sentence says what to do."""
        try:
            from pyngrok import ngrok
            from pyngrok.exception import PyngrokError
        except ImportError as exc:
            raise TunnelError(
                "pyngrok is not installed. Run `pip install pyngrok`, or set LUMIPLY_TUNNEL=none."
            ) from exc
        _keep_out_of_log(self._authtoken)
        self.close()
        end_orphans()
        try:
            self._config = self._configure()
        except OSError as exc:
            self.close()
            raise TunnelError(
                f"the settings of ngrok's agent cannot be written ({exc.strerror or exc}). Make room in the folder of"
                " temporary files, or name another one in TMPDIR." + _OTHERWISE
            ) from exc
        try:
            self._opened = ngrok.connect(str(port), "http", pyngrok_config=self._config)
        except (PyngrokError, OSError) as exc:
            self.close()
            # The agent's own text may quote the token, so neither it nor its traceback goes on.
            raise TunnelError(explain_refusal(exc)) from None
        url: str | None = self._opened.public_url
        if not url:
            self.close()
            raise TunnelError("ngrok named no public address. Try again." + _OTHERWISE)
        return url.replace("http://", "https://", 1).rstrip("/")

    def is_open(self) -> bool:
        """Whether the agent lives and still knows the tunnel."""
        from pyngrok import ngrok, process
        from pyngrok.exception import PyngrokError

        if self._config is None or not process.is_process_running(self._config.ngrok_path):
            return False
        try:
            ngrok.api_request(f"{self._opened.api_url}{self._opened.uri}", timeout=4)
        except (PyngrokError, OSError):
            return False
        return True

    def close(self) -> None:
        """End the agent. Safe to call twice."""
        config, self._config, self._opened = self._config, None, None
        if config is not None:
            from pyngrok import ngrok

            ngrok.kill(config)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def explain(self) -> str:
        """Nothing to explain: there is an address."""
        return ""

    def _configure(self) -> PyngrokConfig:
        from pyngrok.conf import PyngrokConfig

        self._folder = tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-")
        path = Path(self._folder.name) / "ngrok.yml"
        config = PyngrokConfig(ngrok_path=self._agent, config_path=str(path), request_timeout=15)
        # Ctrl-C and a notebook's stop button go to the whole group of processes: the tunnel is to outlive them.
        config.start_new_session = os.name == "posix"
        config.auth_token = None  # else it stands in the process list
        version = str(getattr(config, "config_version", "2"))
        secret = {"authtoken": self._authtoken}
        content = {"version": version, **({"agent": secret} if version == "3" else secret)}
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))  # JSON is YAML
        return config


def end_orphans() -> None:
    """End agents that a program of ours left behind when it was killed; the account may allow no second one.

    Linux only. Their folders, which hold the token, go as well.
    """
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found = re.search(
                rf"\0([^\0]*/{_FOLDER}([0-9]+)-[^/\0]+)/ngrok\.yml\0", entry.read_text(errors="replace")
            )
            if found is None or Path(f"/proc/{found[2]}").exists():
                continue
            os.kill(int(entry.parent.name), signal.SIGTERM)
            log.info("ended an agent of ngrok that an earlier run had left behind")
            shutil.rmtree(found[1], ignore_errors=True)
        except OSError:  # it has just ended, or is another user's
            continue


def explain_refusal(error: Exception) -> str:
    """What an error of pyngrok or its agent means, without quoting it."""
    from pyngrok.exception import PyngrokNgrokInstallError

    if isinstance(error, PyngrokNgrokInstallError):
        return _NO_AGENT + _OTHERWISE
    logs = " ".join(str(line.line) for line in getattr(error, "ngrok_logs", None) or [])
    texts = [str(getattr(error, name, None) or "") for name in ("ngrok_error", "body")] + [str(error), logs]
    code = next((found[1] for text in texts if (found := re.search(r"ERR_NGROK_(\d+)", text))), None)
    if code is not None:
        return f"ERR_NGROK_{code}: {EXPLANATIONS.get(int(code), _UNKNOWN)}{_OTHERWISE}"
    if any(word in " ".join(texts).lower() for word in _NETWORK_WORDS):
        return _NO_NETWORK + _OTHERWISE
    return f"ngrok opened no tunnel ({type(error).__name__}). {_UNKNOWN}{_OTHERWISE}"


class _Redact(logging.Filter):
    """Takes a secret out of whatever is logged."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self.secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(self.secret, "***"), ()
        return True


def _keep_out_of_log(secret: str) -> None:
    logger = logging.getLogger(_AGENT_LOG)
    if not any(isinstance(each, _Redact) and each.secret == secret for each in logger.filters):
        logger.addFilter(_Redact(secret))
