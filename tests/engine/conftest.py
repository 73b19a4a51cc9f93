"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest

from tests.engine.company import Steps


@pytest.fixture
def steps(monkeypatch) -> Steps:
    steps = Steps()
    monkeypatch.setattr(steps.pipeline, "stepper", steps)
    return steps
