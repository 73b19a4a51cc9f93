"""`lumiply serve`."""

from __future__ import annotations

import threading
from typing import Any

import click

from lumiply import api
from lumiply.commands.common import set_up_logging, setting_options, stop_signals
from lumiply.commands.reload import reload_on_hangup
from lumiply.server.service import Service
from lumiply.server.slot import EngineSlot
from lumiply.server.tunnel import Tunnel, choose_tunnel
from lumiply.settings import Settings


@click.command()
@setting_options(
    "host", "port", "results_dir", "results_url", "public_url", "tunnel", "device", "precision", "model", "ckpt_dir",
    "adaptors_dir", "seed", "steps", "preset", "compile", "max_batch", "queue_size", "engine", "replicas",
    "log_level",
)  # fmt: skip
@setting_options("ray_address", flags={"ray_address": "--address"})
def serve(**options: Any) -> None:
    """Answer HTTP requests until Ctrl-C, and show a web page at the server's address.

    The server listens at once and says on /health that it is alive; requests for renders wait until the model
    is loaded. A public address is opened only with --tunnel ngrok. SIGHUP makes it read the adaptors again.

    What has no option here is set by a variable, such as LUMIPLY_TOKEN or LUMIPLY_PAGE: docs/settings.md lists all.
    """
    settings = Settings.from_env(**options)
    set_up_logging(settings)
    slot = EngineSlot()
    tunnel: Tunnel | None = choose_tunnel(settings) if settings.tunnel == "ngrok" else None
    with stop_signals() as stop, reload_on_hangup(slot):
        try:
            with Service(settings, slot, tunnel) as service:
                service.on_move = announce
                announce(service)
                slot.load(lambda: api.build_engine(settings))
                wait_for_engine(slot, stop)
                if not stop.is_set():
                    describe_engine(slot)
                wait(stop, slot)
                click.echo(
                    f"Stopping: renders under way are given {settings.shutdown_s:g} s. Ctrl-C ends at once."
                )
        finally:
            slot.close(timeout=10)
    click.echo("Stopped.")


def announce(service: Service) -> None:
    """Say where the server is."""
    click.echo(f"Lumiply serves at {service.public_url}  (Ctrl-C ends)")
    click.echo(f"  COLAB_WEBHOOK_URL={service.webhook_url}")
    if service.settings.page != "off":
        click.echo(f"  Web page: {service.page_url}")


def wait_for_engine(slot: EngineSlot, stop: threading.Event) -> None:
    """Return once the engine is there, or `stop` is set.

    Raises:
        BaseException: whatever kept the engine from loading.
    """
    while not stop.is_set() and not slot.wait(0.1):
        pass
    if slot.error is not None:
        raise slot.error


def describe_engine(slot: EngineSlot) -> None:
    """Say what renders."""
    info = slot.get().info
    click.echo(f"Ready: {info.summary}. Weights: {info.weights}")


def wait(stop: threading.Event, slot: EngineSlot) -> None:
    """Until a signal comes; in slices, because on Windows Ctrl-C does not interrupt a wait.

    Raises:
        BaseException: whatever ended the engine for good. Ending with it lets a supervisor start the server anew.
    """
    while not stop.wait(1.0):
        if slot.error is not None:
            raise slot.error
