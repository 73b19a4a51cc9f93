"""Public addresses: which one is opened, what is printed, what stays secret."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lumiply import client
from lumiply.errors import AddressError, RemoteError, TunnelError
from lumiply.server.service import Service
from lumiply.server.tunnel import KeptTunnel, NoTunnel, choose_tunnel
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes, wait_until

URL = "https://a1b2.ngrok-free.dev"


class FakeTunnel:
    def __init__(self, error: Exception | None = None) -> None:
        self.on_move: Callable[[str], None] = lambda url: None
        self.port: int | None = None
        self._error = error

    def open(self, port: int) -> str | None:
        if self._error:
            raise self._error
        self.port = port
        return URL

    def is_open(self) -> bool:
        return self.port is not None

    def close(self) -> None:
        self.port = None

    def explain(self) -> str:
        return ""


@pytest.mark.parametrize("auth", ["auto", "none"])
def test_the_announcement_is_the_contracts_and_carries_the_token(settings: Settings, auth: str) -> None:
    with Service(settings.replace(auth=auth), FakeEngine(), FakeTunnel()) as service:
        assert (service.token is None) == (auth == "none")
        assert service.announcement() == (
            "✅ Colab 서버가 시작되었습니다!\n"
            f"🌐 Public URL: {URL}\n"
            "📝 FastAPI의 COLAB_WEBHOOK_URL 환경 변수에 다음 URL을 설정하세요:\n"
            f"   {URL}/process" + (f"?token={service.token}" if service.token else "")
        )


def test_behind_a_tunnel_nobody_calls_without_the_token(settings: Settings, tmp_path: Path) -> None:
    photo = tmp_path / "room.png"
    photo.write_bytes(photo_bytes())
    with Service(settings, FakeEngine(), FakeTunnel()) as first, pytest.raises(RemoteError, match="401"):
        client.process(first.url, photo, "job", "red")
    with Service(settings, FakeEngine(), FakeTunnel()) as second:  # as after a restart, in the same folder
        assert second.token == first.token and len(first.token) >= 32
    elsewhere = settings.replace(results_dir=tmp_path / "elsewhere")
    with Service(elsewhere, FakeEngine(), FakeTunnel()) as other:
        assert other.token != first.token
    chosen = settings.replace(token="chosen-by-the-operator")
    with Service(chosen, FakeEngine(), FakeTunnel()) as third:
        assert third.token == "chosen-by-the-operator"


def test_results_are_linked_under_the_tunnel(settings: Settings, tmp_path: Path) -> None:
    photo = tmp_path / "room.png"
    photo.write_bytes(photo_bytes())
    with Service(settings, FakeEngine(), FakeTunnel()) as service:
        result = client.process(service.url, photo, "job", "red", token=service.token)["result"]
    assert result["images"]["red"] == f"{URL}/static/inference/job/output_red.jpg"


def test_a_tunnel_leads_to_the_port_and_closes_with_the_service(settings: Settings) -> None:
    tunnel = FakeTunnel()
    with Service(settings, FakeEngine(), tunnel) as service:
        assert service.url.endswith(f":{tunnel.port}")
    assert tunnel.port is None


def test_a_tunnel_that_fails_frees_the_port(settings: Settings) -> None:
    service = Service(settings, FakeEngine(), FakeTunnel(TunnelError("no")))
    with pytest.raises(TunnelError):
        service.start()
    port = int(service.url.rpartition(":")[2])
    Service(settings.replace(port=port), FakeEngine()).start().close()


def test_a_port_in_use_opens_no_tunnel(settings: Settings) -> None:
    with Service(settings, FakeEngine()) as first:
        port, tunnel = int(first.url.rpartition(":")[2]), FakeTunnel()
        with pytest.raises(AddressError):
            Service(settings.replace(port=port), FakeEngine(), tunnel).start()
        assert tunnel.port is None


def test_a_start_that_fails_leaves_nothing_running(settings: Settings) -> None:
    with Service(settings, FakeEngine()) as first:
        port = int(first.url.rpartition(":")[2])
        threads = set(threading.enumerate())
        second = Service(settings.replace(port=port), FakeEngine())
        with pytest.raises(AddressError):
            second.start()
        assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tunnel": "none", "ngrok_authtoken": "t"}, "LUMIPLY_TUNNEL=none"),
        ({}, "NGROK_AUTHTOKEN"),
        ({"public_url": URL, "ngrok_authtoken": "t"}, ""),
    ],
)
def test_without_a_token_or_a_wish_no_tunnel_is_opened_and_it_says_why(
    settings: Settings, values: dict[str, str], reason: str
) -> None:
    tunnel = choose_tunnel(settings.replace(**values))
    assert isinstance(tunnel, NoTunnel)
    assert tunnel.open(5000) is None
    assert reason in tunnel.explain()
    with Service(settings.replace(**values), FakeEngine(), tunnel) as service:
        assert service.public_url == values.get("public_url", service.url)
        assert reason in service.announcement()


def test_a_token_chooses_ngrok(settings: Settings) -> None:
    assert isinstance(choose_tunnel(settings.replace(ngrok_authtoken="t")), KeptTunnel)


class Unlucky(FakeTunnel):
    """Goes at once, and meets a full disk when it is opened again; the second time it opens."""

    tries = 0

    def open(self, port: int) -> str | None:
        self.tries += 1
        if self.tries == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.tries == 3:
            self.port = port
        return URL


def test_a_tunnel_is_opened_again_whatever_kept_it_from_that_before(caplog: pytest.LogCaptureFixture) -> None:
    unlucky = Unlucky()
    kept = KeptTunnel(unlucky, look_s=0.01)
    assert kept.open(5000) == URL
    wait_until(kept.is_open)
    wait_until(lambda: f"the tunnel {URL} is open again" in caplog.text)
    kept.close()
    assert unlucky.tries == 3 and "No space left on device" in caplog.text


def test_a_tunnel_that_moved_is_announced_and_linked_under(settings: Settings) -> None:
    tunnel, announced = FakeTunnel(), []
    with Service(settings, FakeEngine(), tunnel) as service:
        service.on_move = lambda moved: announced.append(moved.announcement())
        tunnel.on_move("https://new.ngrok-free.dev")
        assert service.public_url == "https://new.ngrok-free.dev"
    assert "https://new.ngrok-free.dev/process" in announced[0]
