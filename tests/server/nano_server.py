"""A server on the nano model, as a program: for tests that stop and kill it. Prints its address first."""

from __future__ import annotations

from lumiply.commands.common import set_up_logging, stop_signals
from lumiply.engine.local import LocalEngine
from lumiply.engine.protocol import EngineInfo
from lumiply.server import EngineSlot
from lumiply.server.service import Service
from lumiply.settings import Settings
from tests.nano import nano_pipeline


def build() -> LocalEngine:
    """An engine whose renders take milliseconds."""
    return LocalEngine(
        nano_pipeline(), EngineInfo("nano", "filled by name", "nano-0", "cpu", "float32", 64, 2)
    )


def main() -> None:
    """Serve until a signal comes, as `lumiply serve` does."""
    settings = Settings.from_env()
    set_up_logging(settings.replace(log_level="error"))
    slot = EngineSlot(build(), build=build)
    with stop_signals() as stop:
        with Service(settings, slot) as service:
            print(service.url, flush=True)
            stop.wait()
        slot.close(10)


if __name__ == "__main__":
    main()
