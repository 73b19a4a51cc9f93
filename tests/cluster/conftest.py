"""A Ray cluster on this machine with two replicas of the nano model, started once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lumiply.server.slot import EngineSlot
from lumiply.settings import Settings
from tests.server.nano_server import build

#: Set where the tests of the cluster must not be skipped for want of Ray.
REQUIRED = os.environ.get("CLUSTER_TESTS") == "required"


@pytest.fixture(scope="package")
def settings() -> Settings:
    return Settings(engine="ray", replicas="2", queue_size=4, device="cpu")


@pytest.fixture(scope="package")
def cluster(settings: Settings) -> Iterator[Settings]:
    """The settings that the application runs under; Ray ends with the tests."""
    if not REQUIRED:
        pytest.importorskip("ray.serve", reason="needs lumiply[cluster]")
    from lumiply.cluster.start import connect

    slot = EngineSlot()
    slot.load(lambda: connect(settings, build)).join()  # as a server does: on a thread that ends
    slot.get()
    yield settings
    slot.close()
