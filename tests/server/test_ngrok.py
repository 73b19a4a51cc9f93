"""ngrok by pyngrok, with a program of our own as its agent: processes, refusals, secrets, reopening."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.ngrok_agent
from lumiply.errors import TunnelError
from lumiply.server.ngrok import EXPLANATIONS, NgrokTunnel, explain_refusal
from lumiply.server.tunnel import KeptTunnel
from tests.fakes import PATIENCE_S, wait_until

TOKEN = "2abcSESAMEdef"
URL = "https://a1b2.ngrok-free.dev"


class Agent:
    """The stand-in agent's program, and what its runs wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ngrok"
        source = Path(tests.ngrok_agent.__file__).read_text()
        self.path.write_text(f"#!{sys.executable}\n{source}")
        self.path.chmod(0o755)
        self.order(url=URL)

    def order(self, **orders: str) -> None:
        (self.folder / "orders.json").write_text(json.dumps({"url": URL, **orders}))

    @property
    def runs(self) -> list[dict[str, Any]]:
        written = self.folder / "runs.jsonl"
        return [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.delenv("NGROK_AUTHTOKEN", raising=False)
    return Agent(tmp_path)


@pytest.fixture
def tunnel(agent: Agent) -> Iterator[NgrokTunnel]:
    opened = NgrokTunnel(TOKEN, agent.path)
    yield opened
    opened.close()


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # pyngrok leaves the agent's pipe open


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_agent_is_started_leads_to_the_port_and_ends(agent: Agent, tunnel: NgrokTunnel) -> None:
    assert tunnel.open(5000) == URL
    assert tunnel.is_open()
    (run,) = agent.runs
    assert lives(run["pid"])
    tunnel.close()
    tunnel.close()
    assert not lives(run["pid"]) and not tunnel.is_open()


def test_http_is_told_as_https(agent: Agent, tunnel: NgrokTunnel) -> None:
    agent.order(url="http://a1b2.ngrok-free.dev/")
    assert tunnel.open(5000) == URL


def test_the_token_stands_in_a_private_file_only(
    agent: Agent, tunnel: NgrokTunnel, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel.open(5000)
    (run,) = agent.runs
    assert TOKEN in run["config"] and run["mode"] == "0o600"
    assert TOKEN not in " ".join(run["arguments"])
    config = Path(run["arguments"][run["arguments"].index("--config") + 1])
    tunnel.close()
    assert not config.exists()
    assert TOKEN not in caplog.text


def test_the_agents_quote_of_the_token_reaches_neither_log_nor_error(
    agent: Agent, tunnel: NgrokTunnel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    agent.order(refuse=f"authentication failed: Your authtoken: {TOKEN} ERR_NGROK_105")
    with pytest.raises(TunnelError, match="ERR_NGROK_105: ngrok does not accept the token") as caught:
        tunnel.open(5000)
    assert "authtoken: ***" in caplog.text
    assert TOKEN not in caplog.text + str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (107, "Copy it anew from https://dashboard.ngrok.com/get-started/your-authtoken"),
        (108, "https://dashboard.ngrok.com/agents"),
        (121, "`ngrok update`"),
        (734, "Wait a minute"),
        (4018, "Sign up"),
        (9999, "Check the token"),
    ],
)
def test_a_refused_session_is_explained(agent: Agent, tunnel: NgrokTunnel, code: int, part: str) -> None:
    agent.order(refuse=f"authentication failed: for some reason. ERR_NGROK_{code} ")
    with pytest.raises(TunnelError, match=rf"^ERR_NGROK_{code}: ") as caught:
        tunnel.open(5000)
    assert part in str(caught.value) and "LUMIPLY_TUNNEL=none" in str(caught.value)
    assert not lives(agent.runs[0]["pid"])


def test_an_address_that_is_taken_is_explained_and_the_agent_ends(agent: Agent, tunnel: NgrokTunnel) -> None:
    agent.order(deny="The endpoint 'https://a.ngrok-free.dev' is already online. ERR_NGROK_334")
    with pytest.raises(TunnelError, match="^ERR_NGROK_334: .* already online elsewhere"):
        tunnel.open(5000)
    assert not lives(agent.runs[0]["pid"])
    agent.order()
    assert tunnel.open(5000) == URL


def test_no_network_is_explained(agent: Agent, tunnel: NgrokTunnel) -> None:
    agent.order(refuse="failed to dial ngrok server: lookup connect.ngrok-agent.com: no such host")
    with pytest.raises(TunnelError, match="found no way to ngrok's servers"):
        tunnel.open(5000)


def test_an_agent_that_cannot_be_downloaded_is_explained() -> None:
    from pyngrok.exception import PyngrokNgrokInstallError

    assert "PYNGROK_NGROK_PATH" in explain_refusal(PyngrokNgrokInstallError("urlopen error"))


def test_an_agent_that_cannot_be_run_is_explained(agent: Agent, tunnel: NgrokTunnel) -> None:
    agent.path.chmod(0o644)
    with pytest.raises(TunnelError, match=r"opened no tunnel \(PermissionError\)"):
        tunnel.open(5000)


def test_settings_that_cannot_be_written_are_explained(
    agent: Agent, tunnel: NgrokTunnel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(TunnelError, match="cannot be written .No such file or directory.*TMPDIR"):
        tunnel.open(5000)
    monkeypatch.undo()
    assert not agent.runs


def test_every_explanation_says_what_to_do() -> None:
    assert set(EXPLANATIONS) >= {105, 107, 108, 121, 334, 734}
    for sentence in EXPLANATIONS.values():
        assert any(word in sentence for word in ("Copy", "Stop", "Run", "Wait", "Sign up")), sentence


class Moves:
    """Hears where a tunnel moved to."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.heard = threading.Event()

    def __call__(self, url: str) -> None:
        self.urls.append(url)
        self.heard.set()


def test_an_agent_that_dies_is_noticed_and_the_new_address_told(agent: Agent) -> None:
    kept, moves = KeptTunnel(NgrokTunnel(TOKEN, agent.path), look_s=0.05), Moves()
    kept.on_move = moves
    assert kept.open(5000) == URL
    agent.order(url="https://other.ngrok-free.dev")
    os.kill(agent.runs[0]["pid"], signal.SIGKILL)
    try:
        assert moves.heard.wait(PATIENCE_S)
        assert moves.urls == ["https://other.ngrok-free.dev"]
        assert kept.is_open()
    finally:
        kept.close()
    assert not any(lives(run["pid"]) for run in agent.runs)


def test_reopening_goes_on_until_it_succeeds(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    kept, moves = KeptTunnel(NgrokTunnel(TOKEN, agent.path), look_s=0.05), Moves()
    kept.on_move = moves
    kept.open(5000)
    agent.order(url="https://other.ngrok-free.dev", deny="ERR_NGROK_334")
    os.kill(agent.runs[0]["pid"], signal.SIGKILL)
    try:
        for _ in range(int(PATIENCE_S / 0.02)):
            if len(agent.runs) >= 3:
                break
            moves.heard.wait(0.02)
        assert moves.urls == [] and len(agent.runs) >= 3
        agent.order(url="https://other.ngrok-free.dev")
        assert moves.heard.wait(PATIENCE_S)
    finally:
        kept.close()
    assert "ERR_NGROK_334" in caplog.text


def test_a_tunnel_that_the_agent_forgot_counts_as_gone(agent: Agent, tunnel: NgrokTunnel) -> None:
    tunnel.open(5000)
    tunnel._opened.uri += "-forgotten"
    assert not tunnel.is_open()


def program(agent: Agent, then: str = "pass") -> subprocess.Popen[str]:
    """A program that opens a tunnel, says so, and does `then`; it leads a group of processes, as a kernel does."""
    source = f"""
import sys, time
from pathlib import Path
from lumiply.server.ngrok import NgrokTunnel
from lumiply.server.tunnel import KeptTunnel
KeptTunnel(NgrokTunnel({TOKEN!r}, Path({str(agent.path)!r})), look_s=0.001).open(5000)
try:
    print("open", flush=True)
    {then}
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.stdin.read()
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    line = [sys.executable, "-c", source]
    return subprocess.Popen(line, cwd=Path(__file__).parents[2], start_new_session=True, **pipes)


def test_a_program_that_ends_without_closing_leaves_no_agent_and_starts_none(agent: Agent) -> None:
    for _ in range(3):
        program(agent).communicate(timeout=30)
    assert len(agent.runs) == 3
    assert not any(lives(run["pid"]) for run in agent.runs)


def test_the_stop_button_leaves_the_tunnel_alone(agent: Agent) -> None:
    run = program(agent, "time.sleep(60)")
    assert run.stdout and run.stdout.readline() == "open\n"
    assert os.getpgid(agent.runs[0]["pid"]) != run.pid == os.getpgid(run.pid)
    os.killpg(run.pid, signal.SIGINT)
    assert run.stdout.readline() == "stopped\n"
    run.communicate(timeout=30)
    assert len(agent.runs) == 1


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_the_agent_of_a_killed_program_is_ended_by_the_next(agent: Agent, tunnel: NgrokTunnel) -> None:
    killed = program(agent, "time.sleep(60)")
    assert killed.stdout and killed.stdout.readline() == "open\n"
    killed.kill()
    killed.communicate(timeout=30)
    (left,) = agent.runs
    assert lives(left["pid"])
    assert tunnel.open(5000) == URL
    wait_until(lambda: not lives(left["pid"]))
    folder = Path(left["arguments"][left["arguments"].index("--config") + 1]).parent
    assert not folder.exists()  # which held the token
    assert tunnel.is_open()
